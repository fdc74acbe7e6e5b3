#include "data/tokenizers/gpt2_split.h"

#include <array>
#include <cstdint>

#include "data/base/utf8.h"
#include "data/tokenizers/unicode.h"

namespace rwkv::data {
namespace {

using unicode::Kind;

constexpr Kind ascii_kind(unsigned c) {
  if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z')) return Kind::kLetter;
  if (c >= '0' && c <= '9') return Kind::kNumber;
  if (c == ' ' || (c >= '\t' && c <= '\r')) return Kind::kSpace;
  return Kind::kOther;
}
constexpr auto kAsciiKinds = [] {
  std::array<Kind, 128> kinds{};
  for (unsigned c = 0; c < kinds.size(); ++c) kinds[c] = ascii_kind(c);
  return kinds;
}();

/// The kind of the character at `at`, which is moved behind it.
Kind take_kind(std::string_view text, size_t& at) {
  const auto byte = static_cast<unsigned char>(text[at]);
  if (byte < kAsciiKinds.size()) {
    ++at;
    return kAsciiKinds[byte];
  }
  return unicode::kind(next_utf8(text, at));
}

/// Length of 's, 't, 're, 've, 'm, 'll or 'd at `at`, where an apostrophe stands, or 0.
size_t contraction_length(std::string_view text, size_t at) {
  const std::string_view tail = text.substr(at + 1, 2);
  if (tail.empty()) return 0;
  if (tail[0] == 's' || tail[0] == 't' || tail[0] == 'm' || tail[0] == 'd') return 2;
  return tail == "re" || tail == "ve" || tail == "ll" ? 3 : 0;
}

/// End of the run of white space from `at` on; before a visible character a run of two or more
/// leaves its last character to the next piece.
size_t white_space_end(std::string_view text, size_t at) {
  size_t last = at;
  size_t next = at;
  while (next < text.size()) {
    size_t behind = next;
    if (take_kind(text, behind) != Kind::kSpace) return last > at ? last : next;
    last = next;
    next = behind;
  }
  return next;
}

}  // namespace

size_t gpt2_piece_end(std::string_view text, size_t at) {
  if (text[at] == '\'') {
    if (const size_t length = contraction_length(text, at); length > 0) return at + length;
  }
  size_t next = text[at] == ' ' ? at + 1 : at;
  if (next == text.size()) return next;
  const Kind first = take_kind(text, next);
  if (first == Kind::kSpace) return white_space_end(text, at);
  while (next < text.size()) {
    size_t behind = next;
    if (take_kind(text, behind) != first) break;
    next = behind;
  }
  return next;
}

size_t last_sure_gpt2_cut(std::string_view text) {
  const auto is_ascii_space = [](unsigned char c) {
    return c < kAsciiKinds.size() && kAsciiKinds[c] == Kind::kSpace;
  };
  for (size_t at = text.size(); at-- > 1;) {
    const auto before = static_cast<unsigned char>(text[at - 1]);
    // Other white space has several bytes; ASCII alone before the cut keeps this a look at two
    // bytes.
    if (is_ascii_space(static_cast<unsigned char>(text[at])) && before < 0x80 &&
        !is_ascii_space(before)) {
      return at;
    }
  }
  return 0;
}

}  // namespace rwkv::data
