#include "trainer/distributed/watchdog.h"

#include <fmt/format.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <utility>

#include "trainer/exit_code.h"

namespace rwkv::trainer {

using Clock = std::chrono::steady_clock;

Watchdog::Watchdog() {
  // Signals are for the thread that trains.
  sigset_t all;
  sigset_t before;
  ::sigfillset(&all);
  ::pthread_sigmask(SIG_SETMASK, &all, &before);
  thread_ = std::thread([this] { run(); });
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

Watchdog::~Watchdog() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void Watchdog::run() {
  std::unique_lock lock(mutex_);
  while (!stop_) {
    // A second at a time: a deadline of "never" would overflow the clock inside of wait_until().
    changed_.wait_for(lock, std::chrono::seconds(1));
    if (stop_ || Clock::now() < deadline_) continue;
    fmt::print(stderr, "rwkv: {}\n", message_);
    std::fflush(nullptr);
    ::_exit(kPeerLost);
  }
}

Watchdog::Scope::Scope(Watchdog& watchdog, std::chrono::milliseconds limit, std::string message)
    : watchdog_(watchdog) {
  const std::lock_guard lock(watchdog.mutex_);
  outer_deadline_ = std::exchange(watchdog.deadline_, Clock::now() + limit);
  outer_message_ = std::exchange(watchdog.message_, std::move(message));
}

Watchdog::Scope::~Scope() {
  const std::lock_guard lock(watchdog_.mutex_);
  watchdog_.deadline_ = outer_deadline_;
  watchdog_.message_ = std::move(outer_message_);
}

}  // namespace rwkv::trainer
