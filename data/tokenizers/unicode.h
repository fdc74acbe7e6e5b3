#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace rwkv::data::unicode {

/// What the pre-tokenizer asks about a character. Everything else, marks and symbols too, is
/// kOther.
enum class Kind : uint8_t { kOther, kLetter, kNumber, kSpace };

/// The kind of any code point below 0x110000, as the tokenizers package sees it.
Kind kind(char32_t c);

/// Whether well-formed `text` is in Unicode normal form C for sure: false where only nfc() can
/// tell.
bool surely_nfc(std::string_view text);

/// Unicode normal form C of well-formed UTF-8 (UAX 15), with the characters the tokenizers package
/// knows.
std::string nfc(std::string_view text);

}  // namespace rwkv::data::unicode
