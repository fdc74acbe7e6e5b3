#include "data/vocabulary.h"

#include <algorithm>
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
  [[nodiscard]] std::string to_json() const override { return {}; }
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
  [[nodiscard]] std::string to_json() const override {
    return characters_.to_json(TextEncoding::kUtf8);
  }

 private:
  CharVocab characters_;
};

}  // namespace

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
