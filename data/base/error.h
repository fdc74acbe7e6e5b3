#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

namespace rwkv {

/// A mistake of the user (configuration, files, arguments): one line that says what, where and how
/// to mend it. The program prints it without a trace and exits with code 2.
class UserError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Throws UserError with a formatted message.
template <typename... Args>
[[noreturn]] void user_error(fmt::format_string<Args...> format, Args&&... args) {
  throw UserError(fmt::format(format, std::forward<Args>(args)...));
}

/// `text` made fit for one line of a message or a log: control characters as \n, \t or \xNN, at
/// most `max_bytes` bytes followed by "...". Names from files go through it, so that they cannot
/// forge lines.
std::string printable(std::string_view text, size_t max_bytes = 200);

}  // namespace rwkv
