#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace rwkv::data {

class CharVocab;

/// Text to token ids and back.
class Vocabulary {
 public:
  virtual ~Vocabulary() = default;
  [[nodiscard]] virtual int64_t size() const = 0;
  /// Ids of `text`. Throws UserError for what the vocabulary cannot express.
  [[nodiscard]] virtual std::vector<int64_t> encode(std::string_view text) const = 0;
  /// The bytes that `ids` stand for; a single id may be a part of a character. Throws UserError for
  /// an id outside [0, size()).
  [[nodiscard]] virtual std::string decode(std::span<const int64_t> ids) const = 0;
  /// The text of a vocab.json that restores this vocabulary, or an empty one when nothing need be
  /// stored.
  [[nodiscard]] virtual std::string to_json() const = 0;
};

/// One id for each byte, 0..255.
std::shared_ptr<const Vocabulary> byte_vocabulary();

/// One id for each character of `characters`.
std::shared_ptr<const Vocabulary> character_vocabulary(CharVocab characters);

/// Reads a vocab.json (see CharVocab::parse).
std::shared_ptr<const Vocabulary> open_character_vocabulary(const std::filesystem::path& file);

/// How many bytes at the end of `text` begin a UTF-8 character that is not complete yet (0..3).
size_t incomplete_utf8_tail(std::string_view text);

}  // namespace rwkv::data
