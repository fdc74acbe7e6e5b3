#include "data/base/utf8.h"

#include <cstdint>
#include <cstring>

namespace rwkv {
namespace {

unsigned byte_at(std::string_view text, size_t at) { return static_cast<unsigned char>(text[at]); }

/// Bytes allowed after `first`, the first of a character of several bytes (Unicode table 3-7).
struct Second {
  unsigned low = 0x80;
  unsigned high = 0xBF;
};
Second second_after(unsigned first) {
  switch (first) {
    case 0xE0:
      return {.low = 0xA0};  // no overlong forms
    case 0xED:
      return {.high = 0x9F};  // no surrogates
    case 0xF0:
      return {.low = 0x90};
    case 0xF4:
      return {.high = 0x8F};  // nothing beyond U+10FFFF
    default:
      return {};
  }
}

}  // namespace

Utf8Part utf8_part(std::string_view text, size_t at) {
  const unsigned first = byte_at(text, at);
  if (first < 0x80) return {1, true};
  if (first < 0xC2 || first > 0xF4) return {1, false};
  const size_t length = first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
  Second allowed = second_after(first);
  for (size_t i = 1; i < length; ++i) {
    if (at + i >= text.size()) return {i, false};
    const unsigned byte = byte_at(text, at + i);
    if (byte < allowed.low || byte > allowed.high) return {i, false};
    allowed = {};
  }
  return {length, true};
}

size_t find_ill_formed_utf8(std::string_view text) {
  constexpr uint64_t kHighBits = 0x8080808080808080U;
  for (size_t at = 0; at < text.size();) {
    uint64_t word = 0;
    if (text.size() - at >= sizeof word) {
      std::memcpy(&word, text.data() + at, sizeof word);
      if ((word & kHighBits) == 0) {
        at += sizeof word;
        continue;
      }
    }
    const Utf8Part part = utf8_part(text, at);
    if (!part.well_formed) return at;
    at += part.length;
  }
  return std::string_view::npos;
}

std::string replace_ill_formed_utf8(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    const Utf8Part part = utf8_part(text, at);
    out += part.well_formed ? text.substr(at, part.length) : std::string_view("\xEF\xBF\xBD");
    at += part.length;
  }
  return out;
}

}  // namespace rwkv
