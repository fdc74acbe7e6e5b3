#pragma once

#include <span>

namespace rwkv::data::unicode {

// The tables behind unicode.h, made by scripts/make-unicode-tables. Ranges are pairs first, last
// (inclusive), in increasing order. The table of pairs holds every composition; the table of other
// decompositions what never comes back by composing. Hangul syllables are arithmetic and in
// neither.
extern const std::span<const char32_t> kLetters;
extern const std::span<const char32_t> kNumbers;
extern const std::span<const char32_t> kWhiteSpace;
/// composed, first, second
extern const std::span<const char32_t> kPairs;
/// character, number of characters, full decomposition
extern const std::span<const char32_t> kDecompositions;
/// first, last, canonical combining class above 0
extern const std::span<const char32_t> kCombiningClasses;

}  // namespace rwkv::data::unicode
