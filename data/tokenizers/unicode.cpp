#include "data/tokenizers/unicode.h"

#include <algorithm>
#include <cstring>
#include <span>
#include <unordered_map>
#include <vector>

#include "data/base/utf8.h"
#include "data/text_dataset.h"
#include "data/tokenizers/unicode_tables.h"

namespace rwkv::data::unicode {
namespace {

constexpr char32_t kCodePoints = 0x110000;

// Hangul syllables are composed by arithmetic (Unicode 3.12).
constexpr char32_t kSyllables = 0xAC00;
constexpr char32_t kLeads = 0x1100;
constexpr char32_t kVowels = 0x1161;
constexpr char32_t kTrails = 0x11A7;  // one before the first: no trailing consonant
constexpr char32_t kLeadCount = 19;
constexpr char32_t kVowelCount = 21;
constexpr char32_t kTrailCount = 28;
constexpr char32_t kSyllableCount = kLeadCount * kVowelCount * kTrailCount;

/// What NFC needs, as one flat table per question: 1 MB each, of which a text touches a few pages.
class Tables {
 public:
  static const Tables& get() {
    static const Tables tables;
    return tables;
  }

  [[nodiscard]] Kind kind(char32_t c) const { return kinds_[c]; }
  [[nodiscard]] bool may_change(char32_t c) const { return may_change_[c]; }
  [[nodiscard]] uint8_t combining_class(char32_t c) const { return combining_[c]; }

  void append_decomposed(char32_t c, std::u32string& out) const {
    if (c >= kSyllables && c < kSyllables + kSyllableCount) {
      const char32_t index = c - kSyllables;
      out += kLeads + index / (kVowelCount * kTrailCount);
      out += kVowels + index % (kVowelCount * kTrailCount) / kTrailCount;
      if (index % kTrailCount != 0) out += kTrails + index % kTrailCount;
      return;
    }
    const auto found = decompositions_.find(c);
    if (found == decompositions_.end()) {
      out += c;
    } else {
      out += found->second;
    }
  }

  /// The character that `first` and `second` compose to, or 0.
  [[nodiscard]] char32_t composed(char32_t first, char32_t second) const {
    if (first - kLeads < kLeadCount && second - kVowels < kVowelCount) {
      return kSyllables + ((first - kLeads) * kVowelCount + (second - kVowels)) * kTrailCount;
    }
    const bool open_syllable =
        first - kSyllables < kSyllableCount && (first - kSyllables) % kTrailCount == 0;
    if (open_syllable && second > kTrails && second < kTrails + kTrailCount) {
      return first + (second - kTrails);
    }
    const auto found = compositions_.find(pair_key(first, second));
    return found == compositions_.end() ? 0 : found->second;
  }

 private:
  Tables() : kinds_(kCodePoints), may_change_(kCodePoints), combining_(kCodePoints) {
    mark(kLetters, Kind::kLetter);
    mark(kNumbers, Kind::kNumber);
    mark(kWhiteSpace, Kind::kSpace);
    for (size_t i = 0; i < kCombiningClasses.size(); i += 3) {
      for (char32_t c = kCombiningClasses[i]; c <= kCombiningClasses[i + 1]; ++c) {
        combining_[c] = static_cast<uint8_t>(kCombiningClasses[i + 2]);
        may_change_[c] = true;
      }
    }
    read_decompositions();
    read_pairs();
    std::fill_n(may_change_.begin() + kVowels, kVowelCount, true);
    std::fill_n(may_change_.begin() + kTrails + 1, kTrailCount - 1, true);
  }

  static uint64_t pair_key(char32_t first, char32_t second) {
    return static_cast<uint64_t>(first) << 32 | second;
  }

  void mark(std::span<const char32_t> ranges, Kind value) {
    for (size_t i = 0; i < ranges.size(); i += 2) {
      std::fill(kinds_.begin() + ranges[i], kinds_.begin() + ranges[i + 1] + 1, value);
    }
  }

  void read_decompositions() {
    for (size_t i = 0; i < kDecompositions.size();) {
      const char32_t c = kDecompositions[i];
      const size_t length = kDecompositions[i + 1];
      const auto parts = kDecompositions.subspan(i + 2, length);
      decompositions_.emplace(c, std::u32string(parts.begin(), parts.end()));
      may_change_[c] = true;  // it never comes back by composing
      i += 2 + length;
    }
  }

  void read_pairs() {
    std::unordered_map<char32_t, std::u32string> steps;
    for (size_t i = 0; i < kPairs.size(); i += 3) {
      steps.emplace(kPairs[i], std::u32string{kPairs[i + 1], kPairs[i + 2]});
      compositions_.emplace(pair_key(kPairs[i + 1], kPairs[i + 2]), kPairs[i]);
      may_change_[kPairs[i + 2]] = true;
    }
    for (const auto& [c, step] : steps) {
      // Only the first character of a step decomposes further.
      std::u32string whole = step;
      for (auto more = steps.find(whole[0]); more != steps.end(); more = steps.find(whole[0])) {
        whole.replace(0, 1, more->second);
      }
      if (const auto other = decompositions_.find(whole[0]); other != decompositions_.end()) {
        whole.replace(0, 1, other->second);
      }
      decompositions_.insert_or_assign(c, whole);
    }
  }

  std::vector<Kind> kinds_;
  std::vector<bool> may_change_;
  std::vector<uint8_t> combining_;
  std::unordered_map<char32_t, std::u32string> decompositions_;  // full ones
  std::unordered_map<uint64_t, char32_t> compositions_;
};

/// Canonical order: marks between two starters sorted by combining class, equal ones left in order.
void sort_marks(std::u32string& text, const Tables& tables) {
  for (size_t begin = 0; begin < text.size();) {
    if (tables.combining_class(text[begin]) == 0) {
      ++begin;
      continue;
    }
    size_t end = begin;
    while (end < text.size() && tables.combining_class(text[end]) != 0) ++end;
    std::stable_sort(text.begin() + static_cast<std::ptrdiff_t>(begin),
                     text.begin() + static_cast<std::ptrdiff_t>(end),
                     [&tables](char32_t a, char32_t b) {
                       return tables.combining_class(a) < tables.combining_class(b);
                     });
    begin = end;
  }
}

/// Composes in place: a character joins the last starter unless something between blocks it.
void compose(std::u32string& text, const Tables& tables) {
  constexpr size_t kNone = std::u32string::npos;
  size_t starter = kNone;
  size_t out = 0;
  int last_class = -1;  // of the last character kept after the starter
  for (const char32_t c : text) {
    const int own_class = tables.combining_class(c);
    if (starter != kNone && last_class < own_class) {
      if (const char32_t whole = tables.composed(text[starter], c); whole != 0) {
        text[starter] = whole;
        continue;
      }
    }
    if (own_class == 0) {
      starter = out;
      last_class = -1;
    } else {
      last_class = own_class;
    }
    text[out++] = c;
  }
  text.resize(out);
}

}  // namespace

Kind kind(char32_t c) { return Tables::get().kind(c); }

bool surely_nfc(std::string_view text) {
  constexpr uint64_t kHighBits = 0x8080808080808080U;
  const Tables& tables = Tables::get();
  for (size_t at = 0; at < text.size();) {
    uint64_t word = 0;
    if (text.size() - at >= sizeof word) {
      std::memcpy(&word, text.data() + at, sizeof word);
      if ((word & kHighBits) == 0) {
        at += sizeof word;
        continue;
      }
    }
    const char32_t c = next_utf8(text, at);
    if (c >= 0x80 && tables.may_change(c)) return false;
  }
  return true;
}

std::string nfc(std::string_view text) {
  const Tables& tables = Tables::get();
  std::u32string characters;
  characters.reserve(text.size());
  for (size_t at = 0; at < text.size();) tables.append_decomposed(next_utf8(text, at), characters);
  sort_marks(characters, tables);
  compose(characters, tables);
  std::string out;
  out.reserve(text.size());
  for (const char32_t c : characters) append_utf8(out, c);
  return out;
}

}  // namespace rwkv::data::unicode
