#include "trainer/apps/output.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <string>

#include "data/base/error.h"

namespace rwkv::apps {
namespace {

[[noreturn]] void output_failed(int error) {
  user_error("standard output: {}; what was written is not complete", std::strerror(error));
}

}  // namespace

void write_output(std::string_view text) {
  errno = 0;
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size() || std::fflush(stdout) != 0) {
    output_failed(errno);
  }
}

void check_output_written() {
  errno = 0;
  const bool failed_before = std::ferror(stdout) != 0;
  if (std::fflush(stdout) != 0 || failed_before) output_failed(errno != 0 ? errno : EIO);
}

model::FeedProgress waiting_line(std::string_view what) {
  using Clock = std::chrono::steady_clock;
  if (::isatty(STDERR_FILENO) != 1) return {};
  return [what = std::string(what), start = Clock::now(), shown = Clock::time_point()](
             int64_t done, int64_t all) mutable {
    const auto now = Clock::now();
    if (done >= all) {
      if (shown != Clock::time_point()) fmt::print(stderr, "\r\x1b[K");
      return;
    }
    if (now - start < std::chrono::seconds(2) || now - shown < std::chrono::milliseconds(200)) {
      return;
    }
    shown = now;
    fmt::print(stderr, "\r{}: {} %\x1b[K", what, 100 * done / all);
  };
}

}  // namespace rwkv::apps
