#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "data/base/error.h"

namespace rwkv::data {

class CharVocab;

/// Text that a vocabulary cannot express: what is wrong with the character at byte `byte`.
class EncodingError : public UserError {
 public:
  EncodingError(size_t byte, const std::string& reason)
      : UserError(fmt::format("text: byte {}: {}", byte, reason)), byte_(byte), reason_(reason) {}
  [[nodiscard]] size_t byte() const { return byte_; }
  [[nodiscard]] const std::string& reason() const { return reason_; }

 private:
  size_t byte_;
  std::string reason_;
};

/// A file that restores a vocabulary with open_vocabulary().
struct VocabularyFile {
  std::string name;  // vocab.json, tokenizer.json or rwkv_vocab.txt; empty when no file is needed
  std::string text;
  bool operator==(const VocabularyFile&) const = default;
};

/// Text to token ids and back. Immutable; safe to use from several threads.
class Vocabulary {
 public:
  virtual ~Vocabulary() = default;
  /// Ids lie in [0, size()); not each of them need stand for something.
  [[nodiscard]] virtual int64_t size() const = 0;
  /// Ids of `text`. Throws EncodingError for what the vocabulary cannot express.
  [[nodiscard]] virtual std::vector<int64_t> encode(std::string_view text) const = 0;
  /// For texts that come in parts: appends to `ids` those of the longest beginning of `text` whose
  /// ids do not depend on what follows it, and returns its length in bytes; 0 asks for a longer
  /// part. Encode the last part with encode().
  virtual size_t encode_part(std::string_view /*text*/, std::vector<int64_t>& /*ids*/) const {
    return 0;
  }
  /// The bytes that `ids` stand for; a single id may be a part of a character. Throws UserError for
  /// an id outside [0, size()).
  [[nodiscard]] virtual std::string decode(std::span<const int64_t> ids) const = 0;
  /// The file to keep with a model of this vocabulary.
  [[nodiscard]] virtual VocabularyFile file() const { return {}; }
  /// The id that ends a document, where there is one.
  [[nodiscard]] virtual std::optional<int64_t> end_of_text() const { return std::nullopt; }
  /// Whether a model may have more rows than this has ids: tokenizers' models are padded (50277 to
  /// 50304), those of characters have exactly one row each.
  [[nodiscard]] virtual bool may_be_padded() const { return false; }
};

/// One id for each byte, 0..255.
std::shared_ptr<const Vocabulary> byte_vocabulary();

/// One id for each character of `characters`.
std::shared_ptr<const Vocabulary> character_vocabulary(CharVocab characters);

/// Reads a vocab.json (see CharVocab::parse).
std::shared_ptr<const Vocabulary> open_character_vocabulary(const std::filesystem::path& file);

/// `vocabulary` for a model with `rows` rows: the ids beyond its own stand for no bytes.
/// Precondition: rows >= vocabulary->size().
std::shared_ptr<const Vocabulary> padded_vocabulary(std::shared_ptr<const Vocabulary> vocabulary,
                                                    int64_t rows);

/// How many bytes at the end of `text` begin a UTF-8 character that is not complete yet (0..3).
size_t incomplete_utf8_tail(std::string_view text);

}  // namespace rwkv::data
