#include "data/indexed_dataset_builder.h"

#include <cstdint>
#include <stdexcept>
#include <vector>

#include "tests/data/test_files.h"

namespace rwkv::data {
namespace {

using testing::golden_file;
using testing::read_bytes;
using Ids = std::vector<int64_t>;

class IndexedDatasetBuilderTest : public testing::FilesTest {
 protected:
  /// Writes `documents` (lists of sequences) as the pair `name`.
  std::filesystem::path build(const std::string& name, TokenType type,
                              const std::vector<std::vector<Ids>>& documents) const {
    IndexedDatasetBuilder builder(folder_ / name, type);
    for (const auto& document : documents) {
      for (const Ids& sequence : document) builder.add_sequence(sequence);
      builder.end_document();
    }
    builder.finish();
    return folder_ / name;
  }
};

const std::vector<std::vector<Ids>> kTiny{{{5, 6, 7}, {8, 9}},
                                          {{50276}},
                                          {{1, 2, 3, 4}, {10, 11, 12, 13, 14}, {0}},
                                          {{65535, 256, 255, 0}}};

TEST_F(IndexedDatasetBuilderTest, BytesEqualGptNeox) {
  const auto prefix = build("tiny", TokenType::kUint16, kTiny).string();
  EXPECT_EQ(read_bytes(prefix + ".idx"), read_bytes(golden_file("training/tiny.idx")));
  EXPECT_EQ(read_bytes(prefix + ".bin"), read_bytes(golden_file("training/tiny.bin")));
}

TEST_F(IndexedDatasetBuilderTest, EveryTypeComesBackAtItsLimits) {
  const std::vector<std::pair<TokenType, Ids>> cases{
      {TokenType::kUint8, {0, 255}},
      {TokenType::kInt8, {-128, 127}},
      {TokenType::kInt16, {-32768, 32767}},
      {TokenType::kUint16, {0, 65535}},
      {TokenType::kInt32, {-2147483648, 2147483647}},
      {TokenType::kInt64, {INT64_MIN, INT64_MAX}},
  };
  for (const auto& [type, tokens] : cases) {
    const IndexedDataset set(build("limits", type, {{tokens}}));
    EXPECT_EQ(set.type(), type);
    EXPECT_EQ(set.sequence(0), tokens) << token_type_name(type);
    EXPECT_TRUE(set.check().empty());
  }
}

TEST_F(IndexedDatasetBuilderTest, TokensThatDoNotFitAreRefusedAndNothingIsAppended) {
  IndexedDatasetBuilder builder(folder_ / "set", TokenType::kUint16);
  builder.add_sequence(Ids{1});
  EXPECT_REFUSED(builder.add_sequence(Ids{2, 65536}), "token 1 of sequence 1 is 65536");
  EXPECT_REFUSED(builder.add_sequence(Ids{-1}), "does not fit u16");
  builder.end_document();
  builder.finish();
  EXPECT_EQ(IndexedDataset(folder_ / "set").tokens(), 1);
  EXPECT_REFUSED(IndexedDatasetBuilder(folder_ / "set", TokenType::kUint32),
                 "no dtype code for u32");
  EXPECT_REFUSED(IndexedDatasetBuilder(folder_ / "no" / "set", TokenType::kUint16), "no/set.bin");
}

TEST_F(IndexedDatasetBuilderTest, NothingAppearsBeforeFinish) {
  const auto prefix = build("set", TokenType::kUint16, {{{1, 2}}}).string();
  const std::string old = read_bytes(prefix + ".bin");
  {
    IndexedDatasetBuilder builder(prefix, TokenType::kUint16);
    builder.add_sequence(Ids{7});
    builder.end_document();
  }
  EXPECT_EQ(read_bytes(prefix + ".bin"), old);
  EXPECT_EQ(IndexedDataset(prefix).tokens(), 2);
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder_), {}), 2);
}

TEST_F(IndexedDatasetBuilderTest, MergeKeepsDocuments) {
  const auto first = build("first", TokenType::kUint16, {kTiny[0], kTiny[1]});
  const auto second = build("second", TokenType::kUint16, {kTiny[2], kTiny[3]});
  IndexedDatasetBuilder builder(folder_ / "both", TokenType::kUint16);
  builder.merge(IndexedDataset(first));
  builder.merge(IndexedDataset(second));
  builder.finish();
  EXPECT_EQ(read_bytes(folder_ / "both.idx"), read_bytes(golden_file("training/tiny.idx")));
  EXPECT_EQ(read_bytes(folder_ / "both.bin"), read_bytes(golden_file("training/tiny.bin")));
}

TEST_F(IndexedDatasetBuilderTest, MergeRefusesOtherTypesDamageAndItself) {
  const IndexedDataset wide(build("wide", TokenType::kInt32, {{{70000}}}));
  const IndexedDataset own(build("own", TokenType::kUint16, {{{1}}}));
  IndexedDatasetBuilder builder(folder_ / "own", TokenType::kUint16);
  EXPECT_REFUSED(builder.merge(wide), "holds i32 tokens, the output u16");
  EXPECT_REFUSED(builder.merge(own), "both input and output");

  std::string idx = read_bytes(folder_ / "wide.idx");
  idx[idx.size() - 8] = 7;
  write("wide.idx", idx);
  IndexedDatasetBuilder other(folder_ / "other", TokenType::kInt32);
  EXPECT_REFUSED(other.merge(IndexedDataset(folder_ / "wide")), "before merging");
}

TEST_F(IndexedDatasetBuilderTest, UnfinishedDocumentIsABug) {
  const IndexedDataset other(build("other", TokenType::kUint16, {{{1}}}));
  IndexedDatasetBuilder builder(folder_ / "set", TokenType::kUint16);
  builder.add_sequence(Ids{1});
  EXPECT_THROW(builder.merge(other), std::logic_error);
  EXPECT_THROW(builder.finish(), std::logic_error);
}

TEST_F(IndexedDatasetBuilderTest, ManyTokensStreamThroughTheBuffer) {
  Ids sequence(100'000);
  for (size_t i = 0; i < sequence.size(); ++i) sequence[i] = static_cast<int64_t>(i * 7919 % 65536);
  const IndexedDataset set(build("large", TokenType::kUint16,
                                 {{sequence, sequence, {}}, {}, std::vector<Ids>(30, sequence)}));
  EXPECT_EQ(set.tokens(), 3'200'000);
  EXPECT_EQ(set.documents(), 3);
  EXPECT_EQ(set.sequence(32), sequence);
  EXPECT_TRUE(set.check(65536).empty());
}

}  // namespace
}  // namespace rwkv::data
