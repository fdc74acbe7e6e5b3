#include "data/token_source.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <optional>
#include <stdexcept>
#include <system_error>
#include <utility>

#include "data/base/crc32c.h"
#include "data/base/error.h"
#include "data/base/mapped_file.h"
#include "data/indexed_dataset.h"
#include "data/npy.h"
#include "data/text_dataset.h"
#include "data/token_type.h"
#include "data/tokenize_file.h"
#include "data/vocabulary.h"

namespace rwkv::data {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kByteVocab = 256;

std::string shown(const fs::path& path) { return printable(path.string()); }

bool file_exists(const fs::path& path) {
  std::error_code ignored;
  return fs::exists(path, ignored);
}

/// "BYTES:CRC" with CRC over the first and last MiB: corpora of hundreds of gigabytes are
/// identified at once.
std::string content_id(std::span<const std::byte> bytes) {
  constexpr size_t kPart = size_t{1} << 20;
  const size_t head = std::min(bytes.size(), kPart);
  const size_t tail = std::min(bytes.size() - head, kPart);
  const uint32_t crc = crc32c(bytes.last(tail), crc32c(bytes.first(head)));
  return fmt::format("{}:{:08x}", bytes.size(), crc);
}

/// First token at or after byte `byte` where every token takes `item` bytes and the first begins at
/// `start`.
int64_t fixed_token_at_byte(int64_t byte, int64_t start, int64_t item, int64_t size) {
  const int64_t inside = std::max<int64_t>(byte - start, 0);
  return std::min(inside / item + (inside % item != 0 ? 1 : 0), size);
}

/// Tokens of fixed size in a file without header; bytes are the case of one byte each.
class RawSource : public TokenSource {
 public:
  RawSource(MappedFile file, TokenType type, int64_t vocab_size)
      : TokenSource(shown(file.path()), file.size_bytes() / item_size(type)),
        file_(std::move(file)),
        type_(type),
        vocab_size_(vocab_size) {
    if (file_.size_bytes() % item_size(type) != 0) {
      user_error(
          "{}: {} bytes are no whole number of {} tokens; was the copy interrupted, or is the "
          "dtype "
          "another?",
          name(), file_.size_bytes(), token_type_name(type));
    }
  }
  [[nodiscard]] int64_t vocab_size() const override { return vocab_size_; }
  [[nodiscard]] std::string fingerprint() const override {
    return fmt::format("{}/{}", token_type_name(type_), content_id(file_.bytes()));
  }
  void check_unchanged() const override { file_.check_unchanged(); }
  [[nodiscard]] int64_t token_at_byte(int64_t byte) const override {
    return fixed_token_at_byte(byte, 0, item_size(type_), size());
  }

 protected:
  void do_read(int64_t offset, std::span<int64_t> out) const override {
    TokenView{file_.bytes(), type_}.read(offset, out);
  }

 private:
  MappedFile file_;
  TokenType type_;
  int64_t vocab_size_;
};

class NpySource : public TokenSource {
 public:
  explicit NpySource(NpyFile file)
      : TokenSource(shown(file.file().path()), file.view().size()), file_(std::move(file)) {}
  [[nodiscard]] TokenType type() const { return file_.view().type; }
  [[nodiscard]] std::string fingerprint() const override {
    return fmt::format("npy/{}", content_id(file_.file().bytes()));
  }
  void check_unchanged() const override { file_.file().check_unchanged(); }
  [[nodiscard]] int64_t token_at_byte(int64_t byte) const override {
    const TokenView view = file_.view();
    return fixed_token_at_byte(byte, file_.file().size_bytes() - std::ssize(view.bytes),
                               item_size(view.type), size());
  }

 protected:
  void do_read(int64_t offset, std::span<int64_t> out) const override {
    file_.view().read(offset, out);
  }

 private:
  NpyFile file_;
};

class IndexedSource : public TokenSource {
 public:
  explicit IndexedSource(IndexedDataset dataset)
      : TokenSource(shown(dataset.paths().bin), dataset.tokens()), dataset_(std::move(dataset)) {}
  [[nodiscard]] TokenType type() const { return dataset_.type(); }
  [[nodiscard]] std::string fingerprint() const override {
    return fmt::format("binidx/{}/{}", content_id(dataset_.idx_file().bytes()),
                       content_id(dataset_.bin_file().bytes()));
  }
  void check_unchanged() const override { dataset_.check_unchanged(); }
  [[nodiscard]] int64_t token_at_byte(int64_t byte) const override {
    return fixed_token_at_byte(byte, 0, item_size(dataset_.type()), size());
  }

 protected:
  void do_read(int64_t offset, std::span<int64_t> out) const override {
    dataset_.view().read(offset, out);
  }

 private:
  IndexedDataset dataset_;
};

/// Text as characters. The ids live in memory; the text stays mapped, or owned if it is made up.
class CharSource : public TokenSource {
 public:
  struct Text {
    std::optional<MappedFile> file;
    std::string own;
    TextEncoding encoding = TextEncoding::kUtf8;
    [[nodiscard]] std::span<const std::byte> bytes() const {
      return file ? file->bytes() : std::as_bytes(std::span(own.data(), own.size()));
    }
  };

  /// `text` encoded with `vocab`.
  static std::unique_ptr<CharSource> make(std::string name, Text text, CharVocab vocab) {
    CharTokens tokens(text.bytes(), text.encoding, vocab, name);
    return std::make_unique<CharSource>(std::move(name), std::move(text), std::move(vocab),
                                        std::move(tokens));
  }
  CharSource(std::string name, Text text, CharVocab vocab, CharTokens tokens)
      : TokenSource(std::move(name), tokens.view().size()),
        text_(std::move(text)),
        vocab_(std::move(vocab)),
        tokens_(std::move(tokens)) {}

  [[nodiscard]] int64_t vocab_size() const override { return vocab_.size(); }
  [[nodiscard]] const CharVocab* vocab() const override { return &vocab_; }
  [[nodiscard]] std::string fingerprint() const override {
    const std::string json = vocab_.to_json(TextEncoding::kUtf8);
    return fmt::format("characters/{}/{}", content_id(text_.bytes()),
                       content_id(std::as_bytes(std::span(json.data(), json.size()))));
  }
  void check_unchanged() const override {
    if (text_.file) text_.file->check_unchanged();
  }
  [[nodiscard]] int64_t token_at_byte(int64_t byte) const override {
    return characters_before(text_.bytes(), text_.encoding, byte, name());
  }

 protected:
  void do_read(int64_t offset, std::span<int64_t> out) const override {
    tokens_.view().read(offset, out);
  }

 private:
  Text text_;
  CharVocab vocab_;
  CharTokens tokens_;
};

class SliceSource : public TokenSource {
 public:
  SliceSource(std::shared_ptr<const TokenSource> base, int64_t begin, int64_t end)
      : TokenSource(base->name(), end - begin), base_(std::move(base)), begin_(begin) {}
  [[nodiscard]] int64_t vocab_size() const override { return base_->vocab_size(); }
  [[nodiscard]] const CharVocab* vocab() const override { return base_->vocab(); }
  [[nodiscard]] std::string fingerprint() const override {
    return fmt::format("{}[{},{})", base_->fingerprint(), begin_, begin_ + size());
  }
  void check_unchanged() const override { base_->check_unchanged(); }
  [[nodiscard]] int64_t token_at_byte(int64_t byte) const override {
    return std::clamp<int64_t>(base_->token_at_byte(byte) - begin_, 0, size());
  }

 protected:
  void do_read(int64_t offset, std::span<int64_t> out) const override {
    base_->read(begin_ + offset, out);
  }

 private:
  std::shared_ptr<const TokenSource> base_;
  int64_t begin_;
};

struct KindName {
  SourceKind kind;
  std::string_view name;
};
constexpr std::array kKindNames{
    KindName{SourceKind::kAuto, "auto"},
    KindName{SourceKind::kBytes, "bytes"},
    KindName{SourceKind::kCharacters, "characters"},
    KindName{SourceKind::kUtf16leCharacters, "utf16le"},
    KindName{SourceKind::kBinidx, "binidx"},
    KindName{SourceKind::kNpy, "npy"},
    KindName{SourceKind::kRaw, "raw"},
    KindName{SourceKind::kDummy, "dummy"},
    KindName{SourceKind::kText, "text"},
    KindName{SourceKind::kJsonl, "jsonl"},
};

SourceKind resolve(const SourceSpec& spec) {
  if (spec.kind != SourceKind::kAuto) return spec.kind;
  const fs::path path(spec.path);
  if (path.extension() == ".npy") return SourceKind::kNpy;
  const bool has_index = file_exists(indexed_paths(path).idx);
  if (path.extension() == ".idx") return SourceKind::kBinidx;
  if (path.extension() == ".bin") {
    return has_index || spec.dtype.empty() ? SourceKind::kBinidx : SourceKind::kRaw;
  }
  std::error_code ignored;
  if (has_index && !fs::is_regular_file(path, ignored)) return SourceKind::kBinidx;
  if (spec.tokenizer != nullptr && spec.dtype.empty()) {
    return path.extension() == ".jsonl" ? SourceKind::kJsonl : SourceKind::kText;
  }
  if (!spec.vocab_file.empty()) return SourceKind::kCharacters;
  return spec.dtype.empty() ? SourceKind::kBytes : SourceKind::kRaw;
}

/// Throws with the way to get the file when it is one of those that scripts/get-corpus knows.
void require_file(const fs::path& path) {
  if (file_exists(path)) return;
  for (const std::string_view corpus : {"gcide", "enwik8"}) {
    if (path.string().find(corpus) == std::string::npos) continue;
    user_error("{}: no such file; get it with 'scripts/get-corpus {}'", shown(path), corpus);
  }
  user_error("{}: no such file; check the path, or make token files with 'rwkv data build'",
             shown(path));
}

void check_agrees(const SourceSpec& spec, TokenType type, const std::string& name) {
  if (spec.dtype.empty() || parse_token_type(spec.dtype, name) == type) return;
  user_error("{}: the file says its tokens are {}, the configuration says {}; leave dtype empty",
             name, token_type_name(type), printable(spec.dtype));
}

std::unique_ptr<TokenSource> open_characters(const SourceSpec& spec, TextEncoding encoding) {
  CharSource::Text text{.file = MappedFile(spec.path), .own = {}, .encoding = encoding};
  const std::string name = shown(spec.path);
  if (spec.vocab_file.empty()) {
    CharVocab vocab = CharVocab::from_text(text.bytes(), encoding, name);
    return CharSource::make(name, std::move(text), std::move(vocab));
  }
  require_file(spec.vocab_file);
  return CharSource::make(name, std::move(text), CharVocab::load(spec.vocab_file));
}

std::unique_ptr<TokenSource> open_dummy() {
  CharSource::Text text{.file = std::nullopt, .own = dummy_text(), .encoding = TextEncoding::kUtf8};
  CharVocab vocab = CharVocab::from_text(text.bytes(), text.encoding, "dummy");
  return CharSource::make("dummy", std::move(text), std::move(vocab));
}

std::unique_ptr<TokenSource> open_raw(const SourceSpec& spec) {
  const std::string name = shown(spec.path);
  if (spec.dtype.empty()) {
    user_error("{}: raw tokens need a dtype; name one of u16, i32, u8, i8, i16, u32, i64", name);
  }
  return std::make_unique<RawSource>(MappedFile(spec.path), parse_token_type(spec.dtype, name), 0);
}

std::unique_ptr<TokenSource> open_text(const SourceSpec& spec, bool jsonl) {
  if (spec.tokenizer == nullptr) {
    user_error("{}: text and jsonl need a tokenizer; name its file, e.g. rwkv_vocab_v20230424.txt",
               shown(spec.path));
  }
  TokenizeOptions options;
  options.jsonl = jsonl;
  options.append_eod = spec.tokenizer->end_of_text().has_value();
  return open_tokenized(spec.path, spec.tokenizer, options);
}

template <typename Source, typename File>
std::unique_ptr<TokenSource> open_typed(const SourceSpec& spec) {
  auto source = std::make_unique<Source>(File(fs::path(spec.path)));
  check_agrees(spec, source->type(), source->name());
  return source;
}

}  // namespace

void TokenSource::read(int64_t offset, std::span<int64_t> out) const {
  const int64_t count = std::ssize(out);
  if (offset < 0 || count > size_ || offset > size_ - count) {
    throw std::out_of_range(fmt::format("{}: {} tokens from {} on asked for, there are {}", name_,
                                        count, offset, size_));
  }
  if (count > 0) do_read(offset, out);
}

SourceKind parse_source_kind(std::string_view name, std::string_view place) {
  for (const KindName& row : kKindNames) {
    if (row.name == name) return row.kind;
  }
  user_error(
      "{}: no kind of data is called '{}'; use one of auto, bytes, characters, utf16le, binidx, "
      "npy, raw, text, jsonl, dummy",
      place, printable(name));
}

std::unique_ptr<TokenSource> open_tokens(const SourceSpec& spec) {
  const SourceKind kind = resolve(spec);
  if (kind != SourceKind::kDummy && kind != SourceKind::kBinidx) require_file(spec.path);
  switch (kind) {
    case SourceKind::kBytes:
      return std::make_unique<RawSource>(MappedFile(spec.path), TokenType::kUint8, kByteVocab);
    case SourceKind::kCharacters:
      return open_characters(spec, TextEncoding::kUtf8);
    case SourceKind::kUtf16leCharacters:
      return open_characters(spec, TextEncoding::kUtf16le);
    case SourceKind::kBinidx:
      return open_typed<IndexedSource, IndexedDataset>(spec);
    case SourceKind::kNpy:
      return open_typed<NpySource, NpyFile>(spec);
    case SourceKind::kRaw:
      return open_raw(spec);
    case SourceKind::kDummy:
      return open_dummy();
    case SourceKind::kText:
      return open_text(spec, /*jsonl=*/false);
    case SourceKind::kJsonl:
      return open_text(spec, /*jsonl=*/true);
    case SourceKind::kAuto:
      break;
  }
  throw std::logic_error(fmt::format("no source of kind {}", static_cast<int>(kind)));
}

std::unique_ptr<TokenSource> slice(std::shared_ptr<const TokenSource> source, int64_t begin,
                                   int64_t end) {
  if (begin < 0 || begin > end || end > source->size()) {
    throw std::logic_error(fmt::format("slice {} to {} of {} with {} tokens", begin, end,
                                       source->name(), source->size()));
  }
  return std::make_unique<SliceSource>(std::move(source), begin, end);
}

TailSplit split_tail(const std::shared_ptr<const TokenSource>& source, int64_t tail_tokens) {
  if (tail_tokens <= 0 || tail_tokens >= source->size()) {
    user_error(
        "{}: a validation tail of {} tokens cannot be cut from {}; use more than 0 and fewer than "
        "that",
        source->name(), tail_tokens, source->size());
  }
  const int64_t cut = source->size() - tail_tokens;
  return {.train = slice(source, 0, cut), .valid = slice(source, cut, source->size())};
}

}  // namespace rwkv::data
