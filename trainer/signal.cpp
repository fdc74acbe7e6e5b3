#include "trainer/signal.h"

#include <unistd.h>

#include <array>
#include <atomic>
#include <csignal>

namespace rwkv::trainer {
namespace {

constexpr std::array kSignals{SIGTERM, SIGINT, SIGUSR1};
std::atomic<int> requested_signal{0};
static_assert(std::atomic<int>::is_always_lock_free,
              "the handler may only touch lock-free atomics");
std::array<struct sigaction, kSignals.size()> previous_actions;

void on_signal(int number) {
  int none = 0;
  if (!requested_signal.compare_exchange_strong(none, number)) ::_exit(128 + number);
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
