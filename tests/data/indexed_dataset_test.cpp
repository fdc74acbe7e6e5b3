#include "data/indexed_dataset.h"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <functional>
#include <limits>
#include <optional>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include "tests/data/test_files.h"

namespace rwkv::data {
namespace {

using testing::FilesTest;
using testing::golden_file;
using testing::refusal;

constexpr uint64_t kHuge = std::numeric_limits<uint64_t>::max();
constexpr int64_t kLargest = std::numeric_limits<int64_t>::max();

template <typename T>
void put(std::string& out, T value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof(value));
}

/// A pair of files, sound as it stands: nine u16 tokens 1..9 in three sequences and two documents.
struct Pair {
  std::string magic{"MMIDIDX\0\0", 9};
  uint64_t version = 1;
  uint8_t dtype = 8;
  std::optional<uint64_t> sequences;
  std::optional<uint64_t> document_entries;
  std::vector<int32_t> lengths{3, 2, 4};
  std::vector<int64_t> pointers{0, 6, 10};
  std::vector<int64_t> documents{0, 2, 3};
  std::string tail;
  std::optional<size_t> idx_size;
  std::optional<std::string> whole_idx;
  std::string bin{"\1\0\2\0\3\0\4\0\5\0\6\0\7\0\10\0\11\0", 18};
  bool has_idx = true;
  bool has_bin = true;

  [[nodiscard]] std::string idx() const {
    if (whole_idx) return *whole_idx;
    std::string out = magic;
    put(out, version);
    put(out, dtype);
    put(out, sequences.value_or(lengths.size()));
    put(out, document_entries.value_or(documents.size()));
    for (const int32_t length : lengths) put(out, length);
    for (const int64_t pointer : pointers) put(out, pointer);
    for (const int64_t entry : documents) put(out, entry);
    out += tail;
    if (idx_size) out.resize(*idx_size);
    return out;
  }
};

enum class Outcome {
  kLoads,    ///< opens, check() finds nothing
  kFlagged,  ///< opens, because training can use it; check() finds `fragment`
  kRefused,  ///< does not open, the message holds `fragment`
};

struct Case {
  std::string name;
  Outcome outcome;
  std::string fragment;
  std::function<void(Pair&)> change;
};

std::vector<Case> header_cases() {
  using enum Outcome;
  return {
      {"idx missing", kRefused, "has no index", [](Pair& p) { p.has_idx = false; }},
      {"bin missing", kRefused, "has no ", [](Pair& p) { p.has_bin = false; }},
      {"both missing", kRefused, "there is neither",
       [](Pair& p) { p.has_idx = p.has_bin = false; }},
      {"empty idx", kRefused, "is empty", [](Pair& p) { p.idx_size = 0; }},
      {"1 byte", kRefused, "truncated: 1 bytes", [](Pair& p) { p.idx_size = 1; }},
      {"cut in the magic", kRefused, "truncated: 8 bytes", [](Pair& p) { p.idx_size = 8; }},
      {"cut in the version", kRefused, "truncated: 13 bytes", [](Pair& p) { p.idx_size = 13; }},
      {"cut before dtype", kRefused, "the header alone has 34", [](Pair& p) { p.idx_size = 17; }},
      {"cut in the counts", kRefused, "truncated: 33 bytes", [](Pair& p) { p.idx_size = 33; }},
      {"header only", kRefused, "truncated: 34 bytes", [](Pair& p) { p.idx_size = 34; }},
      {"cut in the lengths", kRefused, "take 94", [](Pair& p) { p.idx_size = 40; }},
      {"cut in the offsets", kRefused, "truncated: 60 bytes", [](Pair& p) { p.idx_size = 60; }},
      {"cut in the documents", kRefused, "truncated: 93 bytes", [](Pair& p) { p.idx_size = 93; }},
      {"other magic", kRefused, "does not begin with MMIDIDX",
       [](Pair& p) { p.magic = std::string("ABCDEFG\0\0", 9); }},
      {"magic off by one bit", kRefused, "does not begin with MMIDIDX",
       [](Pair& p) { p.magic[3] = 'H'; }},
      {"magic without zeros", kRefused, "does not begin with MMIDIDX",
       [](Pair& p) { p.magic = "MMIDIDX12"; }},
      {"lower case magic", kRefused, "does not begin with MMIDIDX",
       [](Pair& p) { p.magic = std::string("mmididx\0\0", 9); }},
      {"fairseq", kRefused, "TNTIDX",
       [](Pair& p) { p.whole_idx = std::string("TNTIDX\0\0\1\0\0\0\0\0\0\0", 16); }},
      {"LFS pointer", kRefused, "Git LFS pointer",
       [](Pair& p) {
         p.whole_idx = "version https://git-lfs.github.com/spec/v1\noid sha256:00\n";
       }},
      {"web page", kRefused, "no index of token data",
       [](Pair& p) { p.whole_idx = "<!DOCTYPE html><html><body>404</body></html>"; }},
      {"zeros", kRefused, "does not begin with",
       [](Pair& p) { p.whole_idx = std::string(94, '\0'); }},
      {"version 0", kRefused, "version 0", [](Pair& p) { p.version = 0; }},
      {"version 2", kRefused, "version 2", [](Pair& p) { p.version = 2; }},
      {"version largest", kRefused, "only version 1", [](Pair& p) { p.version = kHuge; }},
      {"big-endian version", kRefused, "version 72057594037927936",
       [](Pair& p) { p.version = uint64_t{1} << 56; }},
      {"dtype 0", kRefused, "unknown dtype code 0", [](Pair& p) { p.dtype = 0; }},
      {"dtype 6", kRefused, "dtype code 6 means floating", [](Pair& p) { p.dtype = 6; }},
      {"dtype 7", kRefused, "dtype code 7 means floating", [](Pair& p) { p.dtype = 7; }},
      {"dtype 9", kRefused, "unknown dtype code 9", [](Pair& p) { p.dtype = 9; }},
      {"dtype 255", kRefused, "unknown dtype code 255", [](Pair& p) { p.dtype = 255; }},
      {"one sequence too many", kRefused, "4 sequences", [](Pair& p) { p.sequences = 4; }},
      {"one sequence too few", kRefused, "after its last entry", [](Pair& p) { p.sequences = 2; }},
      {"one document too many", kRefused, "4 document entries",
       [](Pair& p) { p.document_entries = 4; }},
      {"one document too few", kRefused, "8 bytes after its last entry",
       [](Pair& p) { p.document_entries = 2; }},
      {"sequences 2^31", kRefused, "2147483648 sequences", [](Pair& p) { p.sequences = 1U << 31; }},
      {"sequences 2^63", kRefused, "more than any file",
       [](Pair& p) { p.sequences = uint64_t{1} << 63; }},
      {"sequences largest", kRefused, "more than any file", [](Pair& p) { p.sequences = kHuge; }},
      {"sequences wrap to the true size", kRefused, "more than any file",
       [](Pair& p) { p.sequences = (uint64_t{1} << 62) + 3; }},
      {"documents 2^61 wrap", kRefused, "more than any file",
       [](Pair& p) { p.document_entries = (uint64_t{1} << 61) + 3; }},
      {"documents largest", kRefused, "more than any file",
       [](Pair& p) { p.document_entries = kHuge; }},
      {"sum of both wraps", kRefused, "more than any file",
       [](Pair& p) {
         p.sequences = kHuge / 12;
         p.document_entries = kHuge / 8;
       }},
      {"one byte behind", kRefused, "1 bytes after", [](Pair& p) { p.tail = "x"; }},
      {"two modes for three sequences", kRefused, "2 bytes after",
       [](Pair& p) { p.tail = "\1\1"; }},
      {"two copies joined", kRefused, "94 bytes after", [](Pair& p) { p.tail = p.idx(); }},
      {"sound", kLoads, "", [](Pair& /*p*/) {}},
      {"modes of Megatron-LM", kLoads, "", [](Pair& p) { p.tail = std::string(3, '\0'); }},
  };
}

std::vector<Case> content_cases() {
  using enum Outcome;
  return {
      {"bin of odd size", kRefused, "no whole number of u16", [](Pair& p) { p.bin += '\0'; }},
      {"bin of i32 cut", kRefused, "no whole number of i32", [](Pair& p) { p.dtype = 4; }},
      {"bin empty", kRefused, "which has 0", [](Pair& p) { p.bin.clear(); }},
      {"bin cut at a token", kRefused, "ends at byte 18", [](Pair& p) { p.bin.resize(16); }},
      {"bin longer", kRefused, "which has 20", [](Pair& p) { p.bin += std::string(2, '\1'); }},
      {"dtype smaller than the data", kRefused, "ends at byte 14", [](Pair& p) { p.dtype = 1; }},
      {"no sequences but tokens", kRefused, "lists no sequences",
       [](Pair& p) {
         p.lengths.clear();
         p.pointers.clear();
         p.documents = {0};
       }},
      {"first offset 2", kRefused, "instead of 0", [](Pair& p) { p.pointers[0] = 2; }},
      {"first offset negative", kRefused, "begins at byte -2", [](Pair& p) { p.pointers[0] = -2; }},
      {"first offset largest", kRefused, "instead of 0", [](Pair& p) { p.pointers[0] = kLargest; }},
      {"last length too long", kRefused, "entry 2, the last, ends at byte 20",
       [](Pair& p) { p.lengths[2] = 5; }},
      {"last length negative", kRefused, "ends at byte 8", [](Pair& p) { p.lengths[2] = -1; }},
      {"last offset largest", kRefused, "beyond 2^63", [](Pair& p) { p.pointers[2] = kLargest; }},
      {"last offset negative", kRefused, "ends at byte 0", [](Pair& p) { p.pointers[2] = -8; }},
      {"length negative", kFlagged, "entry 1 has the negative length -2",
       [](Pair& p) { p.lengths[1] = -2; }},
      {"length smallest", kFlagged, "negative length -2147483648",
       [](Pair& p) { p.lengths[0] = std::numeric_limits<int32_t>::min(); }},
      {"length one too long", kFlagged, "entry 2 begins at byte 10 instead of 12",
       [](Pair& p) { p.lengths[1] = 3; }},
      {"length one too short", kFlagged, "entry 1 begins at byte 6 instead of 4",
       [](Pair& p) { p.lengths[0] = 2; }},
      {"length largest", kFlagged, "instead of 4294967294",
       [](Pair& p) { p.lengths[0] = std::numeric_limits<int32_t>::max(); }},
      {"offset misaligned", kFlagged, "entry 1 begins at byte 7",
       [](Pair& p) { p.pointers[1] = 7; }},
      {"offset behind the end", kFlagged, "entry 1 begins at byte 1000",
       [](Pair& p) { p.pointers[1] = 1000; }},
      {"offset in tokens, not bytes", kFlagged, "entry 1 begins at byte 3",
       [](Pair& p) { p.pointers[1] = 3; }},
      {"offset largest", kFlagged, "instead of 6", [](Pair& p) { p.pointers[1] = kLargest; }},
      {"overlapping", kFlagged, "entry 1 begins at byte 4", [](Pair& p) { p.pointers[1] = 4; }},
      {"no document entries", kFlagged, "no document entries",
       [](Pair& p) { p.documents.clear(); }},
      {"first document 1", kFlagged, "first document entry is 1",
       [](Pair& p) { p.documents[0] = 1; }},
      {"document negative", kFlagged, "document entry 1 is -1",
       [](Pair& p) { p.documents[1] = -1; }},
      {"document too large", kFlagged, "document entry 1 is 4, outside",
       [](Pair& p) { p.documents[1] = 4; }},
      {"document largest", kFlagged, "outside 0 to 3", [](Pair& p) { p.documents[2] = kLargest; }},
      {"documents fall", kFlagged, "document entry 2 is 1, less than",
       [](Pair& p) {
         p.documents = {0, 2, 1, 3};
       }},
      {"last document short", kFlagged, "last document entry is 2 instead of 3",
       [](Pair& p) { p.documents[2] = 2; }},
      {"merged without documents", kFlagged, "instead of 3",
       [](Pair& p) {
         p.documents = {0, 1};
       }},
      {"token beyond the vocabulary", kFlagged, "token 8 is 10, outside the vocabulary of 10",
       [](Pair& p) { p.bin[16] = '\12'; }},
      {"token 65535", kFlagged, "token 0 is 65535", [](Pair& p) { p.bin[0] = p.bin[1] = '\377'; }},
      {"token negative", kFlagged, "token 0 is -1, outside",
       [](Pair& p) {
         p.dtype = 3;
         p.bin[0] = p.bin[1] = '\377';
       }},
      {"single sequence of another length", kFlagged, "the lengths end at byte 2",
       [](Pair& p) {
         p.lengths = {1};
         p.pointers = {0};
         p.documents = {0, 1};
       }},
      {"empty sequence", kLoads, "",
       [](Pair& p) {
         p.lengths = {3, 0, 2, 4};
         p.pointers = {0, 6, 6, 10};
         p.documents = {0, 2, 4};
       }},
      {"empty document", kLoads, "",
       [](Pair& p) {
         p.documents = {0, 2, 2, 3};
       }},
      {"no data at all", kLoads, "",
       [](Pair& p) {
         p.lengths.clear();
         p.pointers.clear();
         p.documents = {0};
         p.bin.clear();
       }},
      {"signed 16-bit tokens", kLoads, "", [](Pair& p) { p.dtype = 3; }},
      {"bytes", kLoads, "",
       [](Pair& p) {
         p.dtype = 1;
         p.pointers = {0, 3, 5};
         p.bin = "\1\2\3\4\5\6\7\10\11";
       }},
      {"single sequence", kLoads, "",
       [](Pair& p) {
         p.lengths = {9};
         p.pointers = {0};
         p.documents = {0, 1};
       }},
  };
}

std::vector<Case> all_cases() {
  std::vector<Case> cases = header_cases();
  std::ranges::move(content_cases(), std::back_inserter(cases));
  return cases;
}

class IndexedDatasetTest : public FilesTest {
 protected:
  std::filesystem::path write_pair(const Pair& pair) const {
    std::filesystem::remove(folder_ / "set.idx");
    std::filesystem::remove(folder_ / "set.bin");
    if (pair.has_idx) write("set.idx", pair.idx());
    if (pair.has_bin) write("set.bin", pair.bin);
    return folder_ / "set";
  }
};

TEST_F(IndexedDatasetTest, S01EveryMalformedPairHasItsMessageAndEveryControlLoads) {
  std::set<std::string> names;
  int malformed = 0;
  for (const Case& test : all_cases()) {
    SCOPED_TRACE(test.name);
    EXPECT_TRUE(names.insert(test.name).second);
    Pair pair;
    test.change(pair);
    const auto prefix = write_pair(pair);
    std::vector<std::string> problems;
    const std::string message =
        refusal([&] { problems = IndexedDataset(prefix).check(/*vocab_size=*/10); });
    malformed += test.outcome == Outcome::kLoads ? 0 : 1;
    if (test.outcome == Outcome::kRefused) {
      EXPECT_NE(message.find(test.fragment), std::string::npos) << message;
      EXPECT_NE(message.find("set."), std::string::npos) << "names no file: " << message;
      continue;
    }
    EXPECT_EQ(message, "");
    if (test.outcome == Outcome::kLoads) {
      EXPECT_TRUE(problems.empty()) << problems.front();
    } else {
      const bool found = std::ranges::any_of(problems, [&](const std::string& problem) {
        return problem.find(test.fragment) != std::string::npos;
      });
      EXPECT_TRUE(found) << (problems.empty() ? "no problem found" : problems.front());
    }
  }
  EXPECT_GE(malformed, 60);
}

TEST_F(IndexedDatasetTest, EveryTruncationOfTheIndexIsRefused) {
  const std::string idx = Pair{}.idx();
  for (size_t size = 0; size < idx.size(); ++size) {
    Pair pair;
    pair.idx_size = size;
    const auto prefix = write_pair(pair);
    EXPECT_NE(refusal([&] { IndexedDataset set(prefix); }), "") << size << " bytes";
  }
}

TEST_F(IndexedDatasetTest, ChangedBytesNeverReadOutside) {
  // Whatever a byte of the index says: opening refuses, or sequences stay inside the file.
  const std::string sound = Pair{}.idx();
  for (size_t at = 0; at < sound.size(); ++at) {
    for (const char value : {'\0', '\1', '\x7f', '\x80', '\xff'}) {
      Pair pair;
      pair.whole_idx = sound;
      (*pair.whole_idx)[at] = value;
      const auto prefix = write_pair(pair);
      refusal([&] {
        const IndexedDataset set(prefix);
        const auto problems = set.check(10);
        for (int64_t i = 0; i < set.sequences(); ++i) {
          EXPECT_LE(std::ssize(set.sequence(i)), set.tokens());
        }
        EXPECT_TRUE(!problems.empty() || set.sequence(0).size() == 3);
      });
    }
  }
}

TEST_F(IndexedDatasetTest, CheckNamesEveryKindOfDamageOnce) {
  Pair pair;
  pair.lengths = {3, -2, 4};
  pair.documents = {1, 9, -5, 2};
  pair.bin[0] = pair.bin[2] = '\x7f';
  const auto problems = IndexedDataset(write_pair(pair)).check(10);
  EXPECT_EQ(problems.size(), 6U) << ::testing::PrintToString(problems);
  EXPECT_NE(problems.back().find("(and 1 more like it)"), std::string::npos) << problems.back();
}

TEST_F(IndexedDatasetTest, GoldenPairReadsAcrossSequenceAndDocumentEnds) {
  const IndexedDataset set(golden_file("training/tiny.bin"));
  EXPECT_EQ(set.sequences(), 7);
  EXPECT_EQ(set.documents(), 4);
  std::vector<int64_t> window(9);
  set.view().read(10, window);
  EXPECT_EQ(window, (std::vector<int64_t>{10, 11, 12, 13, 14, 0, 65535, 256, 255}));
  EXPECT_EQ(set.sequence(2), std::vector<int64_t>{50276});
  EXPECT_THROW(set.view().read(12, window), std::out_of_range);
  EXPECT_THROW(set.view().read(-1, window), std::out_of_range);
  EXPECT_THROW(set.view().read(kLargest, window), std::out_of_range);
  EXPECT_THROW(static_cast<void>(set.sequence_length(7)), std::out_of_range);
  EXPECT_THROW(static_cast<void>(set.document_entry(-1)), std::out_of_range);
}

TEST_F(IndexedDatasetTest, NamesOfEitherFileAndDottedPrefixesWork) {
  EXPECT_EQ(indexed_paths("a/pile").idx, "a/pile.idx");
  EXPECT_EQ(indexed_paths("a/pile.idx").bin, "a/pile.bin");
  EXPECT_EQ(indexed_paths("pile.v1").bin, "pile.v1.bin");
}

TEST_F(IndexedDatasetTest, S08ShrunkFileIsNoticed) {
  const auto prefix = write_pair(Pair{});
  const IndexedDataset set(prefix);
  EXPECT_NO_THROW(set.check_unchanged());
  std::filesystem::resize_file(prefix.string() + ".bin", 4);
  EXPECT_REFUSED(set.check_unchanged(), "changed while it was being read");
}

TEST_F(IndexedDatasetTest, S07IndexLargerThanMemoryOpensWithoutBeingRead) {
  // Sparse files: ten thousand million sequences of length 0, then nothing to read but the ends.
  const uint64_t sequences = 10'000'000'000;
  Pair pair;
  pair.sequences = sequences;
  pair.document_entries = 1;
  pair.lengths.clear();
  pair.pointers.clear();
  pair.documents.clear();
  pair.bin.clear();
  const auto prefix = write_pair(pair);
  std::error_code error;
  std::filesystem::resize_file(prefix.string() + ".idx", 34 + 12 * sequences + 8, error);
  if (error) GTEST_SKIP() << "no sparse files of this size here: " << error.message();
  const auto start = std::chrono::steady_clock::now();
  EXPECT_EQ(IndexedDataset(prefix).sequences(), static_cast<int64_t>(sequences));
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(1));
}

TEST_F(IndexedDatasetTest, S12MillionDocumentsOpenInLessThanASecond) {
  constexpr int64_t kDocuments = 1'000'000;
  Pair pair;
  pair.lengths.assign(kDocuments, 1);
  pair.pointers.resize(kDocuments);
  pair.documents.resize(kDocuments + 1);
  for (int64_t i = 0; i < kDocuments; ++i) {
    pair.pointers[static_cast<size_t>(i)] = 2 * i;
    pair.documents[static_cast<size_t>(i) + 1] = i + 1;
  }
  pair.bin.assign(2 * kDocuments, '\0');
  const auto prefix = write_pair(pair);
  const auto start = std::chrono::steady_clock::now();
  const IndexedDataset set(prefix);
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(1));
  EXPECT_TRUE(set.check(1).empty());
}

}  // namespace
}  // namespace rwkv::data
