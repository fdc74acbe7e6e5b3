#include "data/tokenizers/bpe_tokenizer.h"

#include <algorithm>
#include <array>
#include <utility>

#include "data/base/error.h"
#include "data/base/utf8.h"
#include "data/tokenizers/bpe_merges.h"
#include "data/tokenizers/byte_trie.h"
#include "data/tokenizers/gpt2_split.h"
#include "data/tokenizers/piece_table.h"
#include "data/tokenizers/tokenizer_json.h"
#include "data/tokenizers/unicode.h"

namespace rwkv::data {
namespace {

/// Finds added tokens in a text: the leftmost, and the longest of those that begin there.
class AddedTokenFinder {
 public:
  explicit AddedTokenFinder(const std::vector<AddedToken>& tokens) : trie_(entries(tokens)) {
    for (const AddedToken& token : tokens) {
      first_bytes_[static_cast<unsigned char>(token.content[0])] = true;
      // A cut of streamed text before white space must not fall inside of a token.
      may_be_cut_ = may_be_cut_ || last_sure_gpt2_cut(token.content) > 0;
    }
    empty_ = tokens.empty();
  }

  [[nodiscard]] bool may_be_cut() const { return may_be_cut_; }

  /// Hands the text between the tokens to `on_text` and their ids to `on_token`, in order.
  template <typename OnText, typename OnToken>
  void split(std::string_view text, const OnText& on_text, const OnToken& on_token) const {
    if (empty_) {
      on_text(text);
      return;
    }
    const char* const end = text.data() + text.size();
    size_t begin = 0;
    for (size_t at = 0; at < text.size();) {
      if (!first_bytes_[static_cast<unsigned char>(text[at])]) {
        ++at;
        continue;
      }
      const ByteTrie::Match match = trie_.longest(text.data() + at, end);
      if (match.length == 0) {
        ++at;
        continue;
      }
      if (begin < at) on_text(text.substr(begin, at - begin));
      on_token(match.id);
      at += match.length;
      begin = at;
    }
    if (begin < text.size()) on_text(text.substr(begin));
  }

 private:
  static std::vector<ByteTrie::Entry> entries(const std::vector<AddedToken>& tokens) {
    std::vector<ByteTrie::Entry> out;
    for (const AddedToken& token : tokens) out.push_back({token.content, token.id});
    return out;
  }

  ByteTrie trie_;
  std::array<bool, 256> first_bytes_{};
  bool empty_ = true;
  bool may_be_cut_ = false;
};

std::vector<AddedToken> chosen(const std::vector<AddedToken>& tokens, bool normalized,
                               const BpeOptions& options) {
  std::vector<AddedToken> out;
  for (const AddedToken& token : tokens) {
    const bool left_out = token.special && options.special_as_text;
    if (token.normalized == normalized && !left_out) out.push_back(token);
  }
  return out;
}

class BpeTokenizer final : public Vocabulary {
 public:
  BpeTokenizer(std::string json, TokenizerJson parsed, const BpeOptions& options)
      : json_(std::move(json)),
        options_(options),
        tokens_(std::move(parsed.tokens)),
        nfc_(parsed.nfc),
        raw_added_(chosen(parsed.added, /*normalized=*/false, options)),
        normalized_added_(chosen(parsed.added, /*normalized=*/true, options)),
        merges_(parsed.byte_ids, parsed.merges),
        whole_pieces_(tokens_.size()) {
    std::vector<int64_t> ids;
    for (size_t id = 0; id < tokens_.size(); ++id) {
      ids.clear();
      merges_.encode(tokens_[id], ids);
      // Most words of a text are one token; those skip the merges, where the merges lead to it.
      if (ids.size() == 1 && ids[0] == static_cast<int64_t>(id)) {
        whole_pieces_.insert(tokens_[id], static_cast<uint32_t>(id));
      }
    }
    for (const AddedToken& token : parsed.added) {
      if (token.content == "<|endoftext|>") end_of_text_ = token.id;
    }
  }

  [[nodiscard]] int64_t size() const override { return std::ssize(tokens_); }

  [[nodiscard]] std::vector<int64_t> encode(std::string_view text) const override {
    std::vector<int64_t> ids;
    ids.reserve(text.size() / 3);
    append(text, ids);
    return ids;
  }

  size_t encode_part(std::string_view text, std::vector<int64_t>& ids) const override {
    if (raw_added_.may_be_cut() || normalized_added_.may_be_cut()) return 0;
    const size_t cut = last_sure_gpt2_cut(text);
    append(text.substr(0, cut), ids);
    return cut;
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

  [[nodiscard]] VocabularyFile file() const override { return {"tokenizer.json", json_}; }
  [[nodiscard]] std::optional<int64_t> end_of_text() const override { return end_of_text_; }
  [[nodiscard]] bool may_be_padded() const override { return true; }

 private:
  void append(std::string_view text, std::vector<int64_t>& ids) const {
    std::string replaced;
    if (const size_t bad = find_ill_formed_utf8(text); bad != std::string_view::npos) {
      if (!options_.replace_ill_formed) {
        throw EncodingError(
            bad, fmt::format("0x{:02x} is no well-formed UTF-8; convert the text to UTF-8, or use "
                             "--replace-invalid of 'rwkv data'",
                             static_cast<unsigned char>(text[bad])));
      }
      replaced = replace_ill_formed_utf8(text);
      text = replaced;
    }
    const auto on_token = [&ids](uint32_t id) { ids.push_back(id); };
    const auto on_pieces = [&](std::string_view part) { append_pieces(part, ids); };
    raw_added_.split(
        text,
        [&](std::string_view part) {
          if (nfc_ && !unicode::surely_nfc(part)) {
            normalized_added_.split(unicode::nfc(part), on_pieces, on_token);
          } else {
            normalized_added_.split(part, on_pieces, on_token);
          }
        },
        on_token);
  }

  void append_pieces(std::string_view text, std::vector<int64_t>& ids) const {
    for (size_t at = 0; at < text.size();) {
      const size_t end = gpt2_piece_end(text, at);
      const std::string_view piece = text.substr(at, end - at);
      if (const auto id = whole_pieces_.find(piece)) {
        ids.push_back(*id);
      } else {
        merges_.encode(piece, ids);
      }
      at = end;
    }
  }

  std::string json_;
  BpeOptions options_;
  std::vector<std::string> tokens_;
  bool nfc_;
  AddedTokenFinder raw_added_;
  AddedTokenFinder normalized_added_;
  BpeMerges merges_;
  PieceTable whole_pieces_;
  std::optional<int64_t> end_of_text_;
};

}  // namespace

std::shared_ptr<const Vocabulary> bpe_tokenizer(std::string json, std::string_view place,
                                                const BpeOptions& options) {
  TokenizerJson parsed = parse_tokenizer_json(json, place);
  return std::make_shared<BpeTokenizer>(std::move(json), std::move(parsed), options);
}

}  // namespace rwkv::data
