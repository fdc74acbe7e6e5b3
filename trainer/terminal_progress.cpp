#include "trainer/terminal_progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <string>

namespace rwkv::trainer {
namespace {

using Clock = std::chrono::steady_clock;

/// The work that is being shown. One line of the terminal, so one of these.
struct Shown {
  std::string what;
  int64_t all_bytes = -1;
  Clock::time_point start, last;
  bool visible = false;
};

}  // namespace

void show_bytes(std::string_view what, int64_t done_bytes, int64_t all_bytes) {
  constexpr std::chrono::milliseconds kSilent{1000}, kBetween{200};
  static Shown shown;
  if (::isatty(STDERR_FILENO) != 1) return;
  const auto now = Clock::now();
  if (shown.what != what || shown.all_bytes != all_bytes) {
    shown = {std::string(what), all_bytes, now, now, false};
  }
  if (done_bytes >= all_bytes) {
    if (shown.visible) fmt::print(stderr, "\r\x1b[K");
    shown = {};
    return;
  }
  if (now - shown.start < kSilent || (shown.visible && now - shown.last < kBetween)) return;
  shown.visible = true;
  shown.last = now;
  fmt::print(
      stderr, "\r{}: {} % of {:.0f} MB\x1b[K", what,
      static_cast<int>(100.0 * static_cast<double>(done_bytes) / static_cast<double>(all_bytes)),
      static_cast<double>(all_bytes) / 1e6);
}

}  // namespace rwkv::trainer
