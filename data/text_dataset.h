#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "data/token_type.h"

namespace rwkv::data {

enum class TextEncoding {
  kUtf8,
  kUtf16le,  ///< a byte-order mark is a character like any other, as in Python's "utf-16le"
};

/// Checks `bytes` from the start and returns the position of the next character: `at` is moved
/// behind it. Universal newlines as in Python's text mode: "\r\n" and "\r" come out as one "\n".
/// Throws UserError with `place` and the byte offset for what is not well formed (overlong forms,
/// surrogates, ends inside a character). Precondition: at < bytes.size().
char32_t next_character(std::span<const std::byte> bytes, TextEncoding encoding, size_t& at,
                        std::string_view place);

/// Appends `character` (a Unicode scalar value) to `out` as UTF-8.
void append_utf8(std::string& out, char32_t character);

/// A cut of UTF-8 text at byte `at`, moved forward to where a character begins (a byte whose two
/// top bits are not 10) or to the end.
int64_t utf8_boundary(std::span<const std::byte> bytes, int64_t at);

/// Number of characters, after newline translation, that begin before byte `at`.
int64_t characters_before(std::span<const std::byte> bytes, TextEncoding encoding, int64_t at,
                          std::string_view place);

/// The characters of a text, numbered by code point order from 0 (RWKV-LM
/// RWKV-v4neo/src/dataset.py; order by code point, not by UTF-16 unit).
class CharVocab {
 public:
  /// All characters of `bytes`. Throws UserError for malformed or empty text.
  static CharVocab from_text(std::span<const std::byte> bytes, TextEncoding encoding,
                             std::string_view place);
  /// Reads vocab.json: one object {"0": "c0", "1": "c1", ...} with ids from 0 without gaps and one
  /// character each. UTF-16 by its byte-order mark (either order), else UTF-8. `place` names the
  /// file in messages.
  static CharVocab parse(std::span<const std::byte> json, std::string_view place);
  static CharVocab load(const std::filesystem::path& path);

  /// vocab.json as Python's json.dumps(..., ensure_ascii=False) writes it: UTF-8 without mark
  /// (v4neo), or UTF-16LE with one (v2 to v4).
  [[nodiscard]] std::string to_json(TextEncoding encoding) const;
  void save(const std::filesystem::path& path, TextEncoding encoding) const;

  [[nodiscard]] int64_t size() const { return static_cast<int64_t>(characters_.size()); }
  /// Code points in id order.
  [[nodiscard]] std::span<const char32_t> characters() const { return characters_; }
  [[nodiscard]] std::optional<int64_t> id_of(char32_t character) const;

  /// Ids of UTF-8 text, without newline translation. A character outside the vocabulary becomes
  /// `unknown`; without one it is a UserError, as is an `unknown` that the vocabulary lacks.
  [[nodiscard]] std::vector<int64_t> encode(std::string_view text,
                                            std::optional<char32_t> unknown = std::nullopt) const;
  /// UTF-8 text of `ids`. Throws UserError for an id outside [0, size()).
  [[nodiscard]] std::string decode(std::span<const int64_t> ids) const;

 private:
  explicit CharVocab(std::vector<char32_t> characters);

  std::vector<char32_t> characters_;
  std::vector<int32_t> ids_;  // by code point, -1 where there is none
};

/// A text as one id for each character, in two bytes each where the vocabulary allows, else four.
class CharTokens {
 public:
  /// Encodes a whole text; a character outside `vocab` is a UserError with its byte offset.
  CharTokens(std::span<const std::byte> bytes, TextEncoding encoding, const CharVocab& vocab,
             std::string_view place);

  [[nodiscard]] TokenView view() const;

 private:
  std::variant<std::vector<uint16_t>, std::vector<uint32_t>> ids_;
};

/// RWKV-LM's made-up corpus of sums: ".{a}+{b}={a+b}." for i = 0 ... terms-1, a = i mod 10000, b =
/// i*i mod 10000.
std::string dummy_text(int64_t terms = 100000);

}  // namespace rwkv::data
