#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <vector>

#include "data/base/atomic_file.h"
#include "data/indexed_dataset.h"
#include "data/token_type.h"

namespace rwkv::data {

/// Writes a pair PREFIX.bin, PREFIX.idx (layout: indexed_dataset.h), byte for byte as gpt-neox's
/// builder does. Tokens stream to disk; only lengths and document ends (16 bytes for a document)
/// stay in memory. Nothing appears under the final names before finish().
class IndexedDatasetBuilder {
 public:
  /// `name`: as in IndexedPaths. Throws UserError when the type has no dtype code (u32) or the
  /// folder cannot be written.
  IndexedDatasetBuilder(const std::filesystem::path& name, TokenType type);

  /// Appends one sequence, which may be empty. Throws UserError, and appends nothing, when a token
  /// does not fit the type or the sequence is longer than 2^31 - 1.
  void add_sequence(std::span<const int64_t> tokens);
  /// Ends the document that the sequences since the last call form; a document may have none.
  void end_document();

  /// Appends all sequences and documents of `other`. Throws UserError when it has another type, is
  /// damaged, or is the file being written; std::logic_error inside an unfinished document.
  void merge(const IndexedDataset& other);

  /// Writes the index and puts both files in place. An older index goes first, so that no moment
  /// shows the new .bin beside it. std::logic_error when the last document was not ended.
  void finish();

  [[nodiscard]] int64_t tokens() const { return tokens_; }
  [[nodiscard]] int64_t sequences() const { return static_cast<int64_t>(lengths_.size()); }
  [[nodiscard]] int64_t documents() const {
    return static_cast<int64_t>(document_entries_.size()) - 1;
  }

 private:
  void flush();
  void write_index();

  IndexedPaths paths_;
  TokenType type_;
  AtomicFile bin_;
  std::vector<std::byte> buffer_;
  std::vector<int32_t> lengths_;
  std::vector<int64_t> document_entries_{0};
  int64_t tokens_ = 0;
};

}  // namespace rwkv::data
