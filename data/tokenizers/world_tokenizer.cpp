#include "data/tokenizers/world_tokenizer.h"

#include <utility>

#include "data/base/error.h"
#include "data/tokenizers/byte_trie.h"

namespace rwkv::data {
namespace {

std::vector<ByteTrie::Entry> entries_of(const std::vector<std::string>& tokens) {
  std::vector<ByteTrie::Entry> entries;
  for (size_t id = 1; id < tokens.size(); ++id) {
    entries.push_back({tokens[id], static_cast<uint32_t>(id)});
  }
  return entries;
}

class WorldTokenizer final : public Vocabulary {
 public:
  WorldTokenizer(std::string text, std::string_view place)
      : text_(std::move(text)),
        tokens_(parse_world_vocabulary(text_, place)),
        trie_(entries_of(tokens_)) {}

  [[nodiscard]] int64_t size() const override { return std::ssize(tokens_); }

  [[nodiscard]] std::vector<int64_t> encode(std::string_view text) const override {
    std::vector<int64_t> ids;
    ids.reserve(text.size() / 3);
    encode_until(text, text.size(), ids);
    return ids;
  }

  size_t encode_part(std::string_view text, std::vector<int64_t>& ids) const override {
    // A match that ends before the last byte of the longest token's reach sees all it could ever
    // see.
    const size_t reach = trie_.longest_entry();
    return text.size() < reach ? 0 : encode_until(text, text.size() - reach + 1, ids);
  }

  [[nodiscard]] std::string decode(std::span<const int64_t> ids) const override {
    std::string bytes;
    for (const int64_t id : ids) {
      if (id < 0 || id >= size()) {
        user_error("token id {} is outside the vocabulary; ids lie in 0..{}", id, size() - 1);
      }
      bytes += tokens_[static_cast<size_t>(id)];
    }
    return bytes;
  }

  [[nodiscard]] VocabularyFile file() const override { return {"rwkv_vocab.txt", text_}; }
  [[nodiscard]] std::optional<int64_t> end_of_text() const override { return 0; }
  [[nodiscard]] bool may_be_padded() const override { return true; }

 private:
  /// Encodes tokens that begin before `limit`; returns where the last one ends.
  size_t encode_until(std::string_view text, size_t limit, std::vector<int64_t>& ids) const {
    const char* const end = text.data() + text.size();
    size_t at = 0;
    while (at < limit) {
      const ByteTrie::Match match = trie_.longest(text.data() + at, end);
      ids.push_back(match.id);
      at += match.length;  // at least 1: every single byte is a token
    }
    return at;
  }

  std::string text_;
  std::vector<std::string> tokens_;
  ByteTrie trie_;
};

}  // namespace

std::shared_ptr<const Vocabulary> world_tokenizer(std::string text, std::string_view place) {
  return std::make_shared<WorldTokenizer>(std::move(text), place);
}

}  // namespace rwkv::data
