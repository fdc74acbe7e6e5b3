#include "trainer/terminal_progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>

namespace rwkv::trainer {

void show_bytes(std::string_view what, int64_t done_bytes, int64_t all_bytes) {
  if (::isatty(STDERR_FILENO) != 1) return;
  if (done_bytes >= all_bytes) {
    fmt::print(stderr, "\r\x1b[K");
    return;
  }
  fmt::print(
      stderr, "\r{}: {} % of {:.1f} GB\x1b[K", what,
      static_cast<int>(100.0 * static_cast<double>(done_bytes) / static_cast<double>(all_bytes)),
      static_cast<double>(all_bytes) / 1e9);
}

}  // namespace rwkv::trainer
