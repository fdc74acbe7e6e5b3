#include "trainer/distributed/bucket_layout.h"

#include <algorithm>

namespace rwkv::trainer {
namespace {

int64_t round_up(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

}  // namespace

std::vector<Bucket> lay_out_buckets(std::span<const int64_t> sizes, int64_t bucket_size,
                                    int64_t world_size) {
  std::vector<Bucket> buckets;
  for (size_t i = sizes.size(); i-- > 0;) {
    if (sizes[i] == 0) continue;
    const int64_t needed = round_up(sizes[i], kSlotAlignment);
    if (buckets.empty() || buckets.back().size + needed > bucket_size) buckets.emplace_back();
    Bucket& bucket = buckets.back();
    bucket.slots.push_back({i, bucket.size, sizes[i]});
    bucket.size += needed;
  }
  for (Bucket& bucket : buckets) bucket.size = round_up(bucket.size, world_size * kSlotAlignment);
  return buckets;
}

ShardRange shard_of_slot(const Bucket& bucket, const BucketSlot& slot, int64_t rank,
                         int64_t world_size) {
  const int64_t shard = bucket.size / world_size;
  const int64_t begin = std::max(slot.begin, rank * shard);
  const int64_t end = std::min(slot.begin + slot.size, (rank + 1) * shard);
  if (begin >= end) return {};
  return {begin - slot.begin, end - begin};
}

std::vector<int64_t> share_out(std::span<const int64_t> sizes, int64_t world_size) {
  std::vector<int64_t> load(static_cast<size_t>(world_size), 0);
  std::vector<int64_t> owners;
  for (const int64_t size : sizes) {
    const auto least = std::min_element(load.begin(), load.end());
    owners.push_back(least - load.begin());
    *least += size;
  }
  return owners;
}

std::vector<PassRows> split_into_passes(int64_t rows, int64_t micro_bsz) {
  const int64_t passes = (rows + micro_bsz - 1) / micro_bsz;
  std::vector<PassRows> split;
  for (int64_t i = 0; i < passes; ++i) {
    const int64_t begin = rows * i / passes;
    split.push_back({begin, rows * (i + 1) / passes - begin});
  }
  return split;
}

}  // namespace rwkv::trainer
