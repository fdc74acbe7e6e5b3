#include "data/tokenize_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <exception>
#include <stdexcept>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include "data/base/crc32c.h"
#include "data/base/error.h"
#include "data/jsonl.h"
#include "data/token_type.h"

namespace rwkv::data {
namespace {

/// Text that is encoded at once, and lines that are handed to the workers together.
constexpr size_t kPartBytes = size_t{1} << 20;
constexpr size_t kBatchBytes = size_t{8} << 20;

class FileTokenizer {
 public:
  FileTokenizer(const MappedFile& file, const Vocabulary& vocabulary,
                const TokenizeOptions& options, const TokenSink& sink,
                const std::function<void(int64_t, int64_t)>& progress)
      : file_(file),
        text_(reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()),
        place_(printable(file.path().string())),
        vocabulary_(vocabulary),
        options_(options),
        sink_(sink),
        progress_(progress) {
    if (options.append_eod && !vocabulary.end_of_text()) {
      throw std::logic_error("tokenize_file: append_eod with a vocabulary without end of text");
    }
  }

  TokenizeCounts run() {
    if (options_.jsonl) {
      lines();
    } else {
      whole();
    }
    return counts_;
  }

 private:
  void whole() {
    if (text_.empty()) user_error("{}: the text is empty; name a file with content", place_);
    size_t at = 0;
    size_t part = kPartBytes;
    while (text_.size() - at > part) {
      std::vector<int64_t> ids;
      const size_t used =
          encode_at(at, [&] { return vocabulary_.encode_part(text_.substr(at, part), ids); });
      if (used == 0) {
        part *= 2;
        continue;
      }
      emit(ids);
      advance(at, at + used);
      at += used;
      part = kPartBytes;
    }
    std::vector<int64_t> ids = encode_at(at, [&] { return vocabulary_.encode(text_.substr(at)); });
    if (options_.append_eod) ids.push_back(*vocabulary_.end_of_text());
    emit(ids);
    end_document();
    advance(at, text_.size());
  }

  /// Runs `encode` on text that begins at byte `at`, and names the byte of the file when it fails.
  template <typename Encode>
  std::invoke_result_t<Encode> encode_at(size_t at, const Encode& encode) const {
    try {
      return encode();
    } catch (const EncodingError& error) {
      user_error("{}: byte {}: {}", place_, at + error.byte(), error.reason());
    }
  }

  struct Line {
    std::string_view bytes;
    int64_t number;
    std::vector<int64_t> ids;
    bool empty = false;
  };

  void lines() {
    std::vector<Line> batch;
    size_t batch_begin = 0;
    int64_t number = 0;
    for (size_t at = 0; at < text_.size();) {
      const size_t end = std::min(text_.find('\n', at), text_.size());
      ++number;
      const std::string_view line = text_.substr(at, end - at);
      at = std::min(end + 1, text_.size());
      if (!is_blank_line(line)) batch.push_back({line, number, {}});
      if (at - batch_begin >= kBatchBytes || at == text_.size()) {
        encode_batch(batch);
        batch.clear();
        advance(batch_begin, at);
        batch_begin = at;
      }
    }
    if (counts_.documents == 0) {
      user_error("{}: no document with text is in it; name a file with content", place_);
    }
  }

  void encode_batch(std::vector<Line>& batch) {
    const auto workers = static_cast<size_t>(std::max<int64_t>(options_.workers, 1));
    std::vector<std::exception_ptr> failures(workers);
    const auto work = [&](size_t worker) {
      try {
        for (size_t i = worker; i < batch.size(); i += workers) encode_line(batch[i]);
      } catch (...) {
        failures[worker] = std::current_exception();
      }
    };
    {
      std::vector<std::jthread> threads;
      for (size_t worker = 1; worker < std::min(workers, batch.size()); ++worker) {
        threads.emplace_back(work, worker);
      }
      work(0);
    }
    for (const auto& failure : failures) {
      if (failure) std::rethrow_exception(failure);
    }
    for (const Line& line : batch) {
      if (line.empty && !options_.keep_empty) {
        ++counts_.empty;
        continue;
      }
      emit(line.ids);
      end_document();
    }
  }

  void encode_line(Line& line) const {
    const std::string text = jsonl_text(line.bytes, options_.text_key, place_, line.number);
    line.empty = text.empty();
    try {
      line.ids = vocabulary_.encode(text);
    } catch (const EncodingError& error) {
      user_error("{}: line {}: byte {} of the text: {}", place_, line.number, error.byte(),
                 error.reason());
    }
    if (options_.append_eod) line.ids.push_back(*vocabulary_.end_of_text());
  }

  void emit(std::span<const int64_t> ids) {
    counts_.tokens += std::ssize(ids);
    sink_.tokens(ids);
  }
  void end_document() {
    ++counts_.documents;
    sink_.end_document();
  }

  /// Bytes [from, to) are done; their memory is given back.
  void advance(size_t from, size_t to) const {
    file_.check_unchanged();
    file_.release(file_.bytes().subspan(from, to - from));
    if (progress_) progress_(static_cast<int64_t>(to), file_.size_bytes());
  }

  const MappedFile& file_;
  std::string_view text_;
  std::string place_;
  const Vocabulary& vocabulary_;
  const TokenizeOptions& options_;
  const TokenSink& sink_;
  const std::function<void(int64_t, int64_t)>& progress_;
  TokenizeCounts counts_;
};

/// Tokens in memory.
class TokenizedSource final : public TokenSource {
 public:
  TokenizedSource(std::string name, std::vector<std::byte> bytes, TokenType type,
                  int64_t vocab_size)
      : TokenSource(std::move(name), std::ssize(bytes) / item_size(type)),
        bytes_(std::move(bytes)),
        type_(type),
        vocab_size_(vocab_size) {}
  [[nodiscard]] int64_t vocab_size() const override { return vocab_size_; }
  [[nodiscard]] std::string fingerprint() const override {
    return fmt::format("tokenized/{}/{}:{:08x}", token_type_name(type_), size(), crc32c(bytes_));
  }
  [[nodiscard]] int64_t token_at_byte(int64_t /*byte*/) const override {
    user_error("{}: tokens of a tokenizer are split by tokens, not by bytes; use data.train_tokens",
               name());
  }

 protected:
  void do_read(int64_t offset, std::span<int64_t> out) const override {
    TokenView{bytes_, type_}.read(offset, out);
  }

 private:
  std::vector<std::byte> bytes_;
  TokenType type_;
  int64_t vocab_size_;
};

}  // namespace

TokenizeCounts tokenize_file(const MappedFile& file, const Vocabulary& vocabulary,
                             const TokenizeOptions& options, const TokenSink& sink,
                             const std::function<void(int64_t, int64_t)>& progress) {
  return FileTokenizer(file, vocabulary, options, sink, progress).run();
}

std::unique_ptr<TokenSource> open_tokenized(const std::string& path,
                                            const std::shared_ptr<const Vocabulary>& vocabulary,
                                            const TokenizeOptions& options) {
  const MappedFile file(path);
  const TokenType type = vocabulary->size() <= 65536 ? TokenType::kUint16 : TokenType::kUint32;
  std::vector<std::byte> bytes;
  const TokenSink sink{
      .tokens =
          [&](std::span<const int64_t> ids) {
            const size_t begin = bytes.size();
            bytes.resize(begin + ids.size() * static_cast<size_t>(item_size(type)));
            narrow_tokens(ids, type, std::span(bytes).subspan(begin));
          },
      .end_document = [] {},
  };
  tokenize_file(file, *vocabulary, options, sink);
  return std::make_unique<TokenizedSource>(printable(path), std::move(bytes), type,
                                           vocabulary->size());
}

}  // namespace rwkv::data
