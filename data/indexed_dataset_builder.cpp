#include "data/indexed_dataset_builder.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <string>
#include <system_error>

#include "data/base/error.h"
#include "data/indexed_format.h"

namespace rwkv::data {
namespace {

/// Bytes gathered before a write: a document has a few kilobytes, one system call each would be
/// slow.
constexpr size_t kBufferBytes = size_t{1} << 20;

std::string shown(const std::filesystem::path& path) { return printable(path.string()); }

template <typename T>
void append(std::vector<std::byte>& out, T value) {
  const auto bytes = std::as_bytes(std::span(&value, 1));
  out.insert(out.end(), bytes.begin(), bytes.end());
}

}  // namespace

IndexedDatasetBuilder::IndexedDatasetBuilder(const std::filesystem::path& name, TokenType type)
    : paths_(indexed_paths(name)), type_(type), bin_(paths_.bin) {
  if (!token_type_of_code(static_cast<uint8_t>(type))) {
    user_error("{}: .idx files have no dtype code for {}; use u16 or i32", shown(paths_.idx),
               token_type_name(type));
  }
}

void IndexedDatasetBuilder::add_sequence(std::span<const int64_t> tokens) {
  if (std::ssize(tokens) > std::numeric_limits<int32_t>::max()) {
    user_error("{}: a sequence of {} tokens is longer than an index can say (2^31 - 1); split it",
               shown(paths_.bin), tokens.size());
  }
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (fits(tokens[i], type_)) continue;
    user_error(
        "{}: token {} of sequence {} is {}, which does not fit {}; choose a larger dtype, e.g. "
        "--dtype i32",
        shown(paths_.bin), i, sequences(), tokens[i], token_type_name(type_));
  }
  const size_t begin = buffer_.size();
  buffer_.resize(begin + tokens.size() * static_cast<size_t>(item_size(type_)));
  narrow_tokens(tokens, type_, std::span(buffer_).subspan(begin));
  lengths_.push_back(static_cast<int32_t>(tokens.size()));
  tokens_ += std::ssize(tokens);
  if (buffer_.size() >= kBufferBytes) flush();
}

void IndexedDatasetBuilder::end_document() { document_entries_.push_back(sequences()); }

void IndexedDatasetBuilder::merge(const IndexedDataset& other) {
  if (document_entries_.back() != sequences()) {
    throw std::logic_error(
        "IndexedDatasetBuilder::merge inside a document; call end_document() first");
  }
  const std::string name = shown(other.paths().bin);
  std::error_code ignored;
  if (std::filesystem::equivalent(other.paths().bin, paths_.bin, ignored)) {
    user_error("{} is both input and output; choose another output name", name);
  }
  if (other.type() != type_) {
    user_error(
        "{} holds {} tokens, the output {}; only data of one dtype can be merged, rebuild one of "
        "them",
        name, token_type_name(other.type()), token_type_name(type_));
  }
  if (const auto problems = other.check(); !problems.empty()) {
    user_error("{}; mend or rebuild it before merging", problems.front());
  }
  flush();
  const auto bytes = other.bin_file().bytes();
  for (size_t at = 0; at < bytes.size(); at += kBufferBytes) {
    bin_.write(bytes.subspan(at, std::min(kBufferBytes, bytes.size() - at)));
  }
  const int64_t before = sequences();
  for (int64_t i = 0; i < other.sequences(); ++i) lengths_.push_back(other.sequence_length(i));
  for (int64_t i = 1; i < other.document_entries(); ++i) {
    document_entries_.push_back(before + other.document_entry(i));
  }
  tokens_ += other.tokens();
}

void IndexedDatasetBuilder::finish() {
  if (document_entries_.back() != sequences()) {
    throw std::logic_error(
        "IndexedDatasetBuilder::finish inside a document; call end_document() first");
  }
  flush();
  std::error_code ignored;
  std::filesystem::remove(paths_.idx, ignored);
  bin_.commit();
  write_index();
}

void IndexedDatasetBuilder::flush() {
  bin_.write(buffer_);
  buffer_.clear();
}

void IndexedDatasetBuilder::write_index() {
  AtomicFile idx(paths_.idx);
  std::vector<std::byte> block;
  const auto put = [&](auto value) {
    append(block, value);
    if (block.size() < kBufferBytes) return;
    idx.write(block);
    block.clear();
  };
  idx.write(kIndexMagic);
  put(kIndexVersion);
  put(static_cast<uint8_t>(type_));
  put(static_cast<uint64_t>(lengths_.size()));
  put(static_cast<uint64_t>(document_entries_.size()));
  for (const int32_t length : lengths_) put(length);
  int64_t pointer = 0;
  for (const int32_t length : lengths_) {
    put(pointer);
    pointer += length * item_size(type_);
  }
  for (const int64_t entry : document_entries_) put(entry);
  idx.write(block);
  idx.commit();
}

}  // namespace rwkv::data
