#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "data/base/mapped_file.h"
#include "data/token_type.h"

namespace rwkv::data {

/// The two files of a data set; `name` may be the common prefix or either file.
struct IndexedPaths {
  std::filesystem::path idx;
  std::filesystem::path bin;
};
IndexedPaths indexed_paths(const std::filesystem::path& name);

/// A gpt-neox data set, PREFIX.bin (all tokens, back to back, little endian) with PREFIX.idx:
///
///     offset   bytes  content
///     0        9      "MMIDIDX\0\0"
///     9        8      u64 version = 1
///     17       1      u8 dtype code (TokenType)
///     18       8      u64 S, number of sequences
///     26       8      u64 Dn, number of document entries: documents + 1
///     34       4*S    i32 length of each sequence in tokens
///     34+4S    8*S    i64 offset of each sequence in .bin, in bytes: the running sum
///     34+12S   8*Dn   i64 document entries: 0, then after each document the number of sequences so
///     far
///     ...      S      only in multimodal files of newer Megatron-LM: i8 modes, ignored here
///
/// (EleutherAI/gpt-neox megatron/data/indexed_dataset.py; RWKV-LM RWKV-v4neo/src/binidx.py.)
///
/// Training reads the .bin as one stream and needs nothing but the header, so opening looks at the
/// header, the sizes of both files, the first offset and the last entry, never at the whole index:
/// that of the Pile has 4.2 GB. A single sequence may state any length, so that an index can be
/// made by hand for a raw dump. check() reads the rest. Both files stay mapped; safe to read from
/// several threads.
class IndexedDataset {
 public:
  /// Opens the pair called `name` (see IndexedPaths). Throws UserError, with a message of its own
  /// for each kind of damage.
  explicit IndexedDataset(const std::filesystem::path& name);

  [[nodiscard]] TokenType type() const { return type_; }
  [[nodiscard]] int64_t tokens() const { return view().size(); }
  [[nodiscard]] int64_t sequences() const { return sequences_; }
  /// Dn of the header; 0 only in indexes made by hand.
  [[nodiscard]] int64_t document_entries() const { return document_entries_; }
  [[nodiscard]] int64_t documents() const {
    return document_entries_ > 0 ? document_entries_ - 1 : 0;
  }
  [[nodiscard]] const IndexedPaths& paths() const { return paths_; }
  [[nodiscard]] const MappedFile& idx_file() const { return idx_; }
  [[nodiscard]] const MappedFile& bin_file() const { return bin_; }

  /// All tokens as one stream, across sequence and document ends.
  [[nodiscard]] TokenView view() const { return {bin_.bytes(), type_}; }

  /// The entries as they stand in the file, unchecked; the index must lie inside the header's
  /// counts (std::out_of_range).
  [[nodiscard]] int32_t sequence_length(int64_t index) const;
  [[nodiscard]] int64_t sequence_pointer(int64_t index) const;
  [[nodiscard]] int64_t document_entry(int64_t index) const;

  /// The tokens of one sequence. Throws UserError when its entry points outside .bin.
  [[nodiscard]] std::vector<int64_t> sequence(int64_t index) const;

  /// Reads the whole index, and with vocab_size > 0 every token, and returns what is wrong: one
  /// line for each kind of damage with the place where it begins; empty when all is well.
  [[nodiscard]] std::vector<std::string> check(int64_t vocab_size = 0) const;

  /// Throws UserError when one of the files changed on disk since it was opened.
  void check_unchanged() const;

 private:
  void read_header();
  void check_ends() const;
  void check_sequences(std::vector<std::string>& problems) const;
  void check_documents(std::vector<std::string>& problems) const;
  void check_tokens(int64_t vocab_size, std::vector<std::string>& problems) const;

  IndexedPaths paths_;
  MappedFile idx_;
  MappedFile bin_;
  TokenType type_ = TokenType::kUint16;
  int64_t sequences_ = 0;
  int64_t document_entries_ = 0;
};

}  // namespace rwkv::data
