#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace rwkv::data {

class CharVocab;
class Vocabulary;

/// One long stream of tokens, wherever they come from. Immutable; read() is safe from several
/// threads.
class TokenSource {
 public:
  virtual ~TokenSource() = default;
  TokenSource(const TokenSource&) = delete;
  TokenSource& operator=(const TokenSource&) = delete;

  /// Number of tokens.
  [[nodiscard]] int64_t size() const { return size_; }
  /// Tokens `offset` ... `offset + out.size() - 1`, widened. Throws std::out_of_range outside [0,
  /// size()).
  void read(int64_t offset, std::span<int64_t> out) const;
  /// Ids lie below it: 256 for bytes, the number of characters for characters, 0 where the file
  /// does not say.
  [[nodiscard]] virtual int64_t vocab_size() const { return 0; }
  /// The characters behind the ids, or null for other sources. Lives as long as the source.
  [[nodiscard]] virtual const CharVocab* vocab() const { return nullptr; }
  /// Identifies the content, cheaply: size and a checksum of the first and last MiB. Equal for
  /// equal content under any path.
  [[nodiscard]] virtual std::string fingerprint() const = 0;
  /// Throws UserError when the files behind the tokens changed on disk since they were opened.
  virtual void check_unchanged() const {}
  /// The first token that begins at or after byte `byte` of the data, at most size(): turns a split
  /// that is given in bytes (enwik8: 90, 5 and 5 million) into tokens without cutting one.
  [[nodiscard]] virtual int64_t token_at_byte(int64_t byte) const = 0;
  /// What messages call it: a path, printable.
  [[nodiscard]] const std::string& name() const { return name_; }

 protected:
  TokenSource(std::string name, int64_t size) : name_(std::move(name)), size_(size) {}
  /// As read(), with the range checked.
  virtual void do_read(int64_t offset, std::span<int64_t> out) const = 0;

 private:
  std::string name_;
  int64_t size_;
};

enum class SourceKind {
  kAuto,   ///< by name: .npy, .idx, .bin, PREFIX with PREFIX.idx; .jsonl and text if a
           ///< tokenizer is given, characters if a vocab_file is, raw if a dtype is; else bytes
  kBytes,  ///< any file, one token for each byte
  kCharacters,         ///< UTF-8 text, one token for each character
  kUtf16leCharacters,  ///< UTF-16LE text
  kBinidx,             ///< PREFIX.bin with PREFIX.idx
  kNpy,                ///< one-dimensional NumPy array
  kRaw,                ///< tokens of `dtype` without header, also a .bin without its .idx
  kDummy,              ///< made-up sums as characters, no file
  kText,               ///< one document in the tokens of `tokenizer`, then end of text
  kJsonl,              ///< a document for each line (jsonl_text()), each with end of text
};

/// "auto", "bytes", "characters", "utf16le", "binidx", "npy", "raw", "dummy", "text", "jsonl".
/// Throws UserError that
/// begins with `place`.
SourceKind parse_source_kind(std::string_view name, std::string_view place);

struct SourceSpec {
  std::string path{};
  SourceKind kind = SourceKind::kAuto;
  std::string dtype{};  ///< of raw files; for binidx and npy it must agree with the file if given
  std::string vocab_file{};  ///< vocab.json for characters; empty: made from the text
  std::shared_ptr<const Vocabulary> tokenizer{};  ///< of text and jsonl
};

/// Opens the tokens that `spec` describes. Throws UserError, naming file and mend, when that cannot
/// be done.
std::unique_ptr<TokenSource> open_tokens(const SourceSpec& spec);

/// Tokens `begin` ... `end - 1` of `source` as a source of its own. Throws std::logic_error unless
/// 0 <= begin <= end <= source->size().
std::unique_ptr<TokenSource> slice(std::shared_ptr<const TokenSource> source, int64_t begin,
                                   int64_t end);

/// Training and validation parts of one stream, without a common token.
struct TailSplit {
  std::shared_ptr<const TokenSource> train;
  std::shared_ptr<const TokenSource> valid;
};
/// Cuts the last `tail_tokens` off for validation. Throws UserError unless 0 < tail_tokens <
/// size().
TailSplit split_tail(const std::shared_ptr<const TokenSource>& source, int64_t tail_tokens);

}  // namespace rwkv::data
