#include "trainer/distributed/bucket_layout.h"

#include <gtest/gtest.h>

#include <numeric>
#include <set>

namespace rwkv::trainer {
namespace {

TEST(BucketLayout, FromTheLastParameterToTheFirstAlignedAndPadded) {
  const std::vector<int64_t> sizes = {100, 0, 31, 64, 1};
  const std::vector<Bucket> buckets = lay_out_buckets(sizes, 128, 3);
  const std::vector<Bucket> expected = {
      {{{4, 0, 1}, {3, 32, 64}, {2, 96, 31}}, 192},  // 128 elements, padded to 3 * 32
      {{{0, 0, 100}}, 192}};
  EXPECT_EQ(buckets, expected);
}

TEST(BucketLayout, ALargeParameterHasABucketOfItsOwn) {
  const std::vector<Bucket> buckets = lay_out_buckets(std::vector<int64_t>{10, 5000, 10}, 64, 1);
  ASSERT_EQ(buckets.size(), 3U);
  EXPECT_EQ(buckets[1].slots, (std::vector<BucketSlot>{{1, 0, 5000}}));
  EXPECT_EQ(buckets[1].size, 5024);
}

TEST(BucketLayout, ShardsCoverEachParameterOnceAndAreAligned) {
  const std::vector<int64_t> sizes = {1000, 3, 777, 64, 33, 4096, 1};
  for (const int64_t world_size : {1, 2, 3, 4, 7, 16}) {
    for (const Bucket& bucket : lay_out_buckets(sizes, 2000, world_size)) {
      EXPECT_EQ(bucket.size % (world_size * kSlotAlignment), 0);
      for (const BucketSlot& slot : bucket.slots) {
        int64_t next = 0;
        for (int64_t rank = 0; rank < world_size; ++rank) {
          const ShardRange range = shard_of_slot(bucket, slot, rank, world_size);
          if (range.size == 0) continue;
          EXPECT_EQ(range.begin, next);
          EXPECT_EQ(range.begin % kSlotAlignment, 0);
          next += range.size;
        }
        EXPECT_EQ(next, slot.size);
      }
    }
  }
}

TEST(BucketLayout, WritersShareTheWork) {
  const std::vector<int64_t> sizes = {100, 10, 10, 80, 40};
  EXPECT_EQ(share_out(sizes, 2), (std::vector<int64_t>{0, 1, 1, 1, 0}));
  EXPECT_EQ(share_out(sizes, 1), (std::vector<int64_t>{0, 0, 0, 0, 0}));
}

TEST(BucketLayout, PassesAreFewAndEven) {
  EXPECT_EQ(split_into_passes(8, 4), (std::vector<PassRows>{{0, 4}, {4, 4}}));
  EXPECT_EQ(split_into_passes(2, 4), (std::vector<PassRows>{{0, 2}}));
  EXPECT_EQ(split_into_passes(5, 4), (std::vector<PassRows>{{0, 2}, {2, 3}}));
  for (int64_t rows = 1; rows < 40; ++rows) {
    int64_t next = 0;
    for (const PassRows& pass : split_into_passes(rows, 6)) {
      EXPECT_EQ(pass.begin, next);
      EXPECT_LE(pass.rows, 6);
      EXPECT_GE(pass.rows, 1);
      next += pass.rows;
    }
    EXPECT_EQ(next, rows);
  }
}

}  // namespace
}  // namespace rwkv::trainer
