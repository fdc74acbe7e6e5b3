#include "data/indexed_dataset.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>
#include <stdexcept>
#include <string_view>
#include <system_error>
#include <utility>

#include "data/base/checked.h"
#include "data/base/error.h"
#include "data/indexed_format.h"

namespace rwkv::data {
namespace {

std::string shown(const std::filesystem::path& path) { return printable(path.string()); }

/// Reads a T at byte `offset`, which the caller has checked. Nothing in the file is aligned.
template <typename T>
T load(std::span<const std::byte> bytes, int64_t offset) {
  T value{};
  std::memcpy(&value, bytes.data() + offset, sizeof(T));
  return value;
}

bool starts_with(std::span<const std::byte> bytes, std::string_view text) {
  return bytes.size() >= text.size() && std::memcmp(bytes.data(), text.data(), text.size()) == 0;
}

/// `paths`, after checking that both files exist: the mend depends on which one is missing.
const IndexedPaths& require_both(const IndexedPaths& paths) {
  const auto exists = [](const std::filesystem::path& path) {
    std::error_code ignored;
    return std::filesystem::exists(path, ignored);
  };
  const std::string idx = shown(paths.idx);
  const std::string bin = shown(paths.bin);
  if (!exists(paths.idx) && !exists(paths.bin)) {
    user_error("there is neither {} nor {}; check the path, or make them with 'rwkv data build'",
               idx, bin);
  }
  if (!exists(paths.idx)) {
    user_error(
        "{} has no index {} beside it; copy that too, rebuild it with 'rwkv data build', or read "
        "the "
        ".bin alone by naming its dtype (u16, i32, ...)",
        bin, idx);
  }
  if (!exists(paths.bin)) {
    user_error("{} has no {} beside it; copy that too, or rebuild both with 'rwkv data build'", idx,
               bin);
  }
  return paths;
}

void check_magic(const MappedFile& file) {
  const std::string name = shown(file.path());
  const auto bytes = file.bytes();
  if (bytes.empty())
    user_error("{} is empty; was the copy interrupted? copy or build it again", name);
  if (starts_with(bytes, "TNTIDX")) {
    user_error(
        "{} is an index of the older fairseq format (TNTIDX), not of the mmap format; rebuild the "
        "data with 'rwkv data build'",
        name);
  }
  if (starts_with(bytes, "version https://git-lfs")) {
    user_error("{} is a Git LFS pointer, not the file itself; fetch it with 'git lfs pull'", name);
  }
  const auto head = std::min(bytes.size(), kIndexMagic.size());
  if (!starts_with(bytes, kIndexMagic.substr(0, head))) {
    user_error(
        "{}: byte 0 does not begin with MMIDIDX, so this is no index of token data; name the .idx "
        "that belongs to the .bin, or rebuild it with 'rwkv data build'",
        name);
  }
  if (file.size_bytes() < kIndexHeaderBytes) {
    user_error("{} is truncated: {} bytes, the header alone has {}; copy or build it again", name,
               file.size_bytes(), kIndexHeaderBytes);
  }
}

TokenType read_type(const std::string& name, uint8_t code) {
  const auto type = token_type_of_code(code);
  if (type) return *type;
  if (code == 6 || code == 7) {
    user_error(
        "{}: byte {}: dtype code {} means floating-point numbers, which cannot be tokens; rebuild "
        "the data with 'rwkv data build'",
        name, kTypeOffset, code);
  }
  user_error(
      "{}: byte {}: unknown dtype code {}; known are 1 u8, 2 i8, 3 i16, 4 i32, 5 i64, 8 u16; "
      "rebuild the data with 'rwkv data build'",
      name, kTypeOffset, code);
}

/// 34 + 12 S + 8 Dn, or nothing when that overflows.
std::optional<uint64_t> index_bytes(uint64_t sequences, uint64_t document_entries) {
  const auto arrays = checked_mul<uint64_t>(sequences, 12);
  const auto documents = checked_mul<uint64_t>(document_entries, 8);
  if (!arrays || !documents) return std::nullopt;
  const auto sum = checked_add(*arrays, *documents);
  return sum ? checked_add(*sum, static_cast<uint64_t>(kIndexHeaderBytes)) : std::nullopt;
}

void check_index_size(const MappedFile& file, uint64_t sequences, uint64_t document_entries) {
  const std::string name = shown(file.path());
  const auto size = static_cast<uint64_t>(file.size_bytes());
  const auto wanted = index_bytes(sequences, document_entries);
  if (!wanted) {
    user_error(
        "{}: byte {}: the header counts {} sequences and {} document entries, more than any file "
        "can hold; the header is damaged, copy or build it again",
        name, kSequencesOffset, sequences, document_entries);
  }
  if (size < *wanted) {
    user_error(
        "{} is truncated: {} bytes, but {} sequences and {} document entries take {}; was the copy "
        "interrupted? copy or build it again",
        name, size, sequences, document_entries, *wanted);
  }
  // Newer Megatron-LM appends one byte (the mode) for each sequence, and only the size tells.
  if (size > *wanted && size - *wanted != sequences) {
    user_error(
        "{} has {} bytes after its last entry ({} sequences and {} document entries take {} of "
        "{}); "
        "the header does not belong to this file, copy or build it again",
        name, size - *wanted, sequences, document_entries, *wanted, size);
  }
}

/// Collects one line for each kind of damage, at the first place where it is found.
class Finding {
 public:
  void add(std::string first) {
    if (count_++ == 0) first_ = std::move(first);
  }
  void report(std::vector<std::string>& problems) const {
    if (count_ == 1) problems.push_back(first_);
    if (count_ > 1) problems.push_back(fmt::format("{} (and {} more like it)", first_, count_ - 1));
  }
  [[nodiscard]] bool empty() const { return count_ == 0; }

 private:
  std::string first_;
  int64_t count_ = 0;
};

void check_index(int64_t index, int64_t count, std::string_view what) {
  if (index < 0 || index >= count) {
    throw std::out_of_range(fmt::format("{} {} asked for, there are {}", what, index, count));
  }
}

}  // namespace

IndexedPaths indexed_paths(const std::filesystem::path& name) {
  std::filesystem::path prefix = name;
  if (name.extension() == ".idx" || name.extension() == ".bin") prefix.replace_extension();
  return {.idx = prefix.string() + ".idx", .bin = prefix.string() + ".bin"};
}

IndexedDataset::IndexedDataset(const std::filesystem::path& name)
    : paths_(require_both(indexed_paths(name))), idx_(paths_.idx), bin_(paths_.bin) {
  read_header();
  check_ends();
}

void IndexedDataset::read_header() {
  check_magic(idx_);
  const std::string name = shown(paths_.idx);
  const auto bytes = idx_.bytes();
  const auto version = load<uint64_t>(bytes, kVersionOffset);
  if (version != kIndexVersion) {
    user_error(
        "{}: byte {}: version {}, only version 1 is known; rebuild the data with 'rwkv data build'",
        name, kVersionOffset, version);
  }
  type_ = read_type(name, load<uint8_t>(bytes, kTypeOffset));
  const auto sequences = load<uint64_t>(bytes, kSequencesOffset);
  const auto document_entries = load<uint64_t>(bytes, kDocumentsOffset);
  check_index_size(idx_, sequences, document_entries);
  // Both fit now: their arrays lie inside the file.
  sequences_ = static_cast<int64_t>(sequences);
  document_entries_ = static_cast<int64_t>(document_entries);
}

void IndexedDataset::check_ends() const {
  const std::string idx = shown(paths_.idx);
  const std::string bin = shown(paths_.bin);
  const int64_t item = item_size(type_);
  if (bin_.size_bytes() % item != 0) {
    user_error(
        "{}: {} bytes are no whole number of {} tokens ({} bytes each, by the dtype code of {}); "
        "was "
        "the copy interrupted? compare sizes or rebuild with 'rwkv data build'",
        bin, bin_.size_bytes(), token_type_name(type_), item, idx);
  }
  if (sequences_ == 0) {
    if (bin_.size_bytes() == 0) return;
    user_error(
        "{} lists no sequences, but {} has {} bytes; the two do not belong together, rebuild them "
        "with 'rwkv data build'",
        idx, bin, bin_.size_bytes());
  }
  if (sequence_pointer(0) != 0) {
    user_error(
        "{}: byte {}: the first sequence begins at byte {} of {} instead of 0; rebuild the data "
        "with 'rwkv data build'",
        idx, kIndexHeaderBytes + 4 * sequences_, sequence_pointer(0), bin);
  }
  if (sequences_ == 1) return;
  const int64_t last = sequences_ - 1;
  const auto end = checked_add(sequence_pointer(last), sequence_length(last) * item);
  if (!end || *end != bin_.size_bytes()) {
    user_error(
        "{}: entry {}, the last, ends at byte {} of {}, which has {}; was the copy interrupted? "
        "compare sizes or rebuild with 'rwkv data build'",
        idx, last, end ? std::to_string(*end) : "beyond 2^63", bin, bin_.size_bytes());
  }
}

int32_t IndexedDataset::sequence_length(int64_t index) const {
  check_index(index, sequences_, "sequence");
  return load<int32_t>(idx_.bytes(), kIndexHeaderBytes + 4 * index);
}

int64_t IndexedDataset::sequence_pointer(int64_t index) const {
  check_index(index, sequences_, "sequence");
  return load<int64_t>(idx_.bytes(), kIndexHeaderBytes + 4 * sequences_ + 8 * index);
}

int64_t IndexedDataset::document_entry(int64_t index) const {
  check_index(index, document_entries_, "document entry");
  return load<int64_t>(idx_.bytes(), kIndexHeaderBytes + 12 * sequences_ + 8 * index);
}

std::vector<int64_t> IndexedDataset::sequence(int64_t index) const {
  const int64_t item = item_size(type_);
  const int64_t length = sequence_length(index);
  const int64_t begin = sequence_pointer(index);
  if (length < 0 || begin < 0 || begin % item != 0 || length > tokens() ||
      begin / item > tokens() - length) {
    user_error("{}: entry {} (byte {}, {} tokens) does not lie inside {}; see 'rwkv data info'",
               shown(paths_.idx), index, begin, length, shown(paths_.bin));
  }
  std::vector<int64_t> out(static_cast<size_t>(length));
  view().read(begin / item, out);
  return out;
}

std::vector<std::string> IndexedDataset::check(int64_t vocab_size) const {
  std::vector<std::string> problems;
  check_sequences(problems);
  check_documents(problems);
  if (vocab_size > 0) check_tokens(vocab_size, problems);
  return problems;
}

void IndexedDataset::check_sequences(std::vector<std::string>& problems) const {
  const std::string idx = shown(paths_.idx);
  const int64_t item = item_size(type_);
  Finding negative;
  Finding misplaced;
  // Lengths are below 2^31 and the file holds S of them: the sum stays far below 2^63.
  int64_t end = 0;
  for (int64_t i = 0; i < sequences_; ++i) {
    const int64_t length = sequence_length(i);
    const int64_t pointer = sequence_pointer(i);
    if (length < 0)
      negative.add(fmt::format("{}: entry {} has the negative length {}", idx, i, length));
    if (pointer != end) {
      misplaced.add(
          fmt::format("{}: entry {} begins at byte {} instead of {}, the end of the one before",
                      idx, i, pointer, end));
    }
    // Goes on from where the entry says, so that one bad entry is not reported S times.
    const auto next = checked_add(pointer, std::max<int64_t>(length, 0) * item);
    end = next.value_or(0);
  }
  negative.report(problems);
  misplaced.report(problems);
  if (end != bin_.size_bytes()) {
    problems.push_back(fmt::format("{}: the lengths end at byte {} of {}, which has {}", idx, end,
                                   shown(paths_.bin), bin_.size_bytes()));
  }
}

void IndexedDataset::check_documents(std::vector<std::string>& problems) const {
  const std::string idx = shown(paths_.idx);
  if (document_entries_ == 0) {
    problems.push_back(fmt::format("{}: there are no document entries, not even the first 0", idx));
    return;
  }
  if (document_entry(0) != 0) {
    problems.push_back(
        fmt::format("{}: the first document entry is {} instead of 0", idx, document_entry(0)));
  }
  Finding decreasing;
  Finding outside;
  for (int64_t i = 0; i < document_entries_; ++i) {
    const int64_t entry = document_entry(i);
    if (entry < 0 || entry > sequences_) {
      outside.add(fmt::format("{}: document entry {} is {}, outside 0 to {} sequences", idx, i,
                              entry, sequences_));
    }
    if (i > 0 && entry < document_entry(i - 1)) {
      decreasing.add(fmt::format("{}: document entry {} is {}, less than the one before ({})", idx,
                                 i, entry, document_entry(i - 1)));
    }
  }
  outside.report(problems);
  decreasing.report(problems);
  const int64_t last = document_entry(document_entries_ - 1);
  if (last != sequences_ && outside.empty()) {
    problems.push_back(
        fmt::format("{}: the last document entry is {} instead of {}, the number of sequences", idx,
                    last, sequences_));
  }
}

void IndexedDataset::check_tokens(int64_t vocab_size, std::vector<std::string>& problems) const {
  const std::string bin = shown(paths_.bin);
  Finding outside;
  std::array<int64_t, 4096> block{};
  const int64_t total = tokens();
  for (int64_t at = 0; at < total; at += std::ssize(block)) {
    const auto part = std::span(block).first(
        static_cast<size_t>(std::min<int64_t>(std::ssize(block), total - at)));
    view().read(at, part);
    for (size_t i = 0; i < part.size(); ++i) {
      if (part[i] >= 0 && part[i] < vocab_size) continue;
      outside.add(fmt::format("{}: token {} is {}, outside the vocabulary of {}", bin,
                              at + static_cast<int64_t>(i), part[i], vocab_size));
    }
  }
  outside.report(problems);
}

void IndexedDataset::check_unchanged() const {
  idx_.check_unchanged();
  bin_.check_unchanged();
}

}  // namespace rwkv::data
