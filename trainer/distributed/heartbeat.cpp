#include "trainer/distributed/heartbeat.h"

#include <fmt/format.h>

#include <csignal>
#include <cstdio>
#include <exception>
#include <utility>

namespace rwkv::trainer {

Heartbeat::Heartbeat(StorePtr store, int64_t rank) : store_(std::move(store)), rank_(rank) {
  // Signals are for the thread that trains.
  sigset_t all;
  sigset_t before;
  ::sigfillset(&all);
  ::pthread_sigmask(SIG_SETMASK, &all, &before);
  thread_ = std::thread([this] { run(); });
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

Heartbeat::~Heartbeat() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake_.notify_all();
  thread_.join();
}

void Heartbeat::run() {
  std::unique_lock lock(mutex_);
  for (int64_t count = 0; !stop_; ++count) {
    try {
      store_->set(fmt::format("beat/{}", rank_),
                  fmt::format("{} {} {}", count, step_.load(), collectives_.load()));
    } catch (const std::exception&) {
      return;  // The store is gone; who waits for a rank will notice and say so.
    }
    wake_.wait_for(lock, kInterval, [this] { return stop_; });
  }
}

Beat read_beat(c10d::Store& store, int64_t rank) {
  const std::string key = fmt::format("beat/{}", rank);
  Beat beat;
  if (!store.check({key})) return beat;
  long long count = 0;
  long long step = 0;
  long long collectives = 0;
  if (std::sscanf(store.get_to_str(key).c_str(), "%lld %lld %lld", &count, &step, &collectives) ==
      3) {
    beat = {count, step, collectives};
  }
  return beat;
}

}  // namespace rwkv::trainer
