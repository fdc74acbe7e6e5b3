#include "data/vocabulary.h"

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "data/base/error.h"
#include "data/text_dataset.h"

namespace rwkv::data {
namespace {

class ByteVocabulary final : public Vocabulary {
 public:
  [[nodiscard]] int64_t size() const override { return 256; }
  [[nodiscard]] std::vector<int64_t> encode(std::string_view text) const override {
    std::vector<int64_t> ids(text.size());
    std::transform(text.begin(), text.end(), ids.begin(),
                   [](char c) { return static_cast<unsigned char>(c); });
    return ids;
  }
  [[nodiscard]] std::string decode(std::span<const int64_t> ids) const override {
    std::string text;
    for (const int64_t id : ids) {
      if (id < 0 || id > 255) user_error("token id {} is no byte; ids lie in 0..255", id);
      text += static_cast<char>(static_cast<unsigned char>(id));
    }
    return text;
  }
  size_t encode_part(std::string_view text, std::vector<int64_t>& ids) const override {
    const auto more = encode(text);
    ids.insert(ids.end(), more.begin(), more.end());
    return text.size();
  }
  [[nodiscard]] VocabularyFile file() const override { return {}; }
};

class CharacterVocabulary final : public Vocabulary {
 public:
  explicit CharacterVocabulary(CharVocab characters) : characters_(std::move(characters)) {}
  [[nodiscard]] int64_t size() const override { return characters_.size(); }
  [[nodiscard]] std::vector<int64_t> encode(std::string_view text) const override {
    // As the original's run.py: what training never saw becomes a space, where the text had one.
    const bool has_space = characters_.id_of(U' ').has_value();
    return characters_.encode(text, has_space ? std::optional(U' ') : std::nullopt);
  }
  [[nodiscard]] std::string decode(std::span<const int64_t> ids) const override {
    return characters_.decode(ids);
  }
  size_t encode_part(std::string_view text, std::vector<int64_t>& ids) const override {
    const size_t whole = text.size() - incomplete_utf8_tail(text);
    const auto more = encode(text.substr(0, whole));
    ids.insert(ids.end(), more.begin(), more.end());
    return whole;
  }
  [[nodiscard]] VocabularyFile file() const override {
    return {.name = "vocab.json", .text = characters_.to_json(TextEncoding::kUtf8)};
  }

 private:
  CharVocab characters_;
};

class PaddedVocabulary final : public Vocabulary {
 public:
  PaddedVocabulary(std::shared_ptr<const Vocabulary> inner, int64_t rows)
      : inner_(std::move(inner)), rows_(rows) {}
  [[nodiscard]] int64_t size() const override { return rows_; }
  [[nodiscard]] std::vector<int64_t> encode(std::string_view text) const override {
    return inner_->encode(text);
  }
  size_t encode_part(std::string_view text, std::vector<int64_t>& ids) const override {
    return inner_->encode_part(text, ids);
  }
  [[nodiscard]] std::string decode(std::span<const int64_t> ids) const override {
    std::vector<int64_t> known;
    for (const int64_t id : ids) {
      if (id < inner_->size() || id >= rows_) known.push_back(id);
    }
    return inner_->decode(known);
  }
  [[nodiscard]] VocabularyFile file() const override { return inner_->file(); }
  [[nodiscard]] std::optional<int64_t> end_of_text() const override {
    return inner_->end_of_text();
  }
  [[nodiscard]] bool may_be_padded() const override { return true; }

 private:
  std::shared_ptr<const Vocabulary> inner_;
  int64_t rows_;
};

}  // namespace

std::shared_ptr<const Vocabulary> padded_vocabulary(std::shared_ptr<const Vocabulary> vocabulary,
                                                    int64_t rows) {
  if (rows < vocabulary->size()) {
    throw std::logic_error(
        fmt::format("padded_vocabulary: {} rows for {} ids", rows, vocabulary->size()));
  }
  if (rows == vocabulary->size()) return vocabulary;
  return std::make_shared<PaddedVocabulary>(std::move(vocabulary), rows);
}

std::shared_ptr<const Vocabulary> byte_vocabulary() { return std::make_shared<ByteVocabulary>(); }

std::shared_ptr<const Vocabulary> character_vocabulary(CharVocab characters) {
  return std::make_shared<CharacterVocabulary>(std::move(characters));
}

std::shared_ptr<const Vocabulary> open_character_vocabulary(const std::filesystem::path& file) {
  return character_vocabulary(CharVocab::load(file));
}

size_t incomplete_utf8_tail(std::string_view text) {
  for (size_t back = 1; back <= std::min<size_t>(3, text.size()); ++back) {
    const auto byte = static_cast<unsigned char>(text[text.size() - back]);
    if ((byte & 0xC0U) == 0x80U) continue;  // inside a character: look further back
    const size_t length = byte >= 0xF0U ? 4 : byte >= 0xE0U ? 3 : byte >= 0xC0U ? 2 : 1;
    return length > back ? back : 0;
  }
  return 0;
}

}  // namespace rwkv::data
