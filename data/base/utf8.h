#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace rwkv {

/// What begins at byte `at` of `text`: one well-formed UTF-8 character, or the longest part of one
/// that can be replaced as a whole (Unicode 3.9, "maximal subpart"). length: 1..4 bytes.
struct Utf8Part {
  size_t length;
  bool well_formed;
};
/// Precondition: at < text.size().
Utf8Part utf8_part(std::string_view text, size_t at);

/// Byte offset of the first part that is not well-formed UTF-8, or std::string_view::npos.
size_t find_ill_formed_utf8(std::string_view text);

/// `text` with each ill-formed part replaced by U+FFFD.
std::string replace_ill_formed_utf8(std::string_view text);

/// Decodes the character at `at`, which is moved behind it. Precondition: the text is well-formed
/// UTF-8 and `at` stands at the beginning of a character.
inline char32_t next_utf8(std::string_view text, size_t& at) {
  const auto byte = [&text](size_t i) {
    return static_cast<char32_t>(static_cast<unsigned char>(text[i]));
  };
  const char32_t first = byte(at++);
  if (first < 0x80) return first;
  const auto more = [&] { return byte(at++) & 0x3F; };
  if (first < 0xE0) return (first & 0x1F) << 6 | more();
  if (first < 0xF0) {
    const char32_t high = (first & 0x0F) << 12 | more() << 6;
    return high | more();
  }
  char32_t value = (first & 0x07) << 18 | more() << 12;
  value |= more() << 6;
  return value | more();
}

}  // namespace rwkv
