#include "trainer/signal.h"

#include <unistd.h>

#include <array>
#include <atomic>
#include <csignal>
#include <ctime>

namespace rwkv::trainer {
namespace {

constexpr std::array kSignals{SIGTERM, SIGINT, SIGUSR1};
// `timeout` and other supervisors signal a process and then its group: two signals that mean one.
constexpr std::time_t kSameRequestS = 2;
std::atomic<int> requested_signal{0};
std::atomic<std::time_t> requested_at_s{0};
static_assert(std::atomic<int>::is_always_lock_free,
              "the handler may only touch lock-free atomics");
static_assert(std::atomic<std::time_t>::is_always_lock_free);
std::array<struct sigaction, kSignals.size()> previous_actions;

void on_signal(int number) {
  struct timespec now {};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  int none = 0;
  if (requested_signal.compare_exchange_strong(none, number)) {
    requested_at_s = now.tv_sec;
  } else if (now.tv_sec - requested_at_s >= kSameRequestS) {
    ::_exit(128 + number);
  }
}

}  // namespace

StopSignals::StopSignals() {
  requested_signal = 0;
  struct sigaction action {};
  action.sa_handler = on_signal;
  action.sa_flags = SA_RESTART;
  for (size_t i = 0; i < kSignals.size(); ++i) {
    ::sigaction(kSignals[i], &action, &previous_actions[i]);
  }
}

StopSignals::~StopSignals() {
  for (size_t i = 0; i < kSignals.size(); ++i) {
    ::sigaction(kSignals[i], &previous_actions[i], nullptr);
  }
}

int StopSignals::requested() { return requested_signal; }

}  // namespace rwkv::trainer
