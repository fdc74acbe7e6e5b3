#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace rwkv::trainer {

/// A parameter's place in its bucket, in elements.
struct BucketSlot {
  size_t parameter = 0;  // index into the list of parameters
  int64_t begin = 0;
  int64_t size = 0;

  bool operator==(const BucketSlot&) const = default;
};

/// Parameters whose gradients are reduced together, one behind the other in a flat tensor. Gaps and
/// the padding at the end are zero.
struct Bucket {
  std::vector<BucketSlot> slots;
  int64_t size = 0;  // with padding: a multiple of world_size * kSlotAlignment

  bool operator==(const Bucket&) const = default;
};

/// A slot begins at a multiple of it, and so does the shard of a rank: wherever a tensor is cut,
/// the vector units see the same groups of elements as in the whole one, and the same bits come
/// out.
inline constexpr int64_t kSlotAlignment = 32;

/// Lays parameters of `sizes` elements (0: not trained, left out) out in buckets of `bucket_size`
/// elements; a larger parameter has one of its own. From the last parameter to the first, about as
/// the backward pass comes by. A pure function, so that a restart sums in the same order.
std::vector<Bucket> lay_out_buckets(std::span<const int64_t> sizes, int64_t bucket_size,
                                    int64_t world_size);

/// The part of a slot that lies in the shard of `rank`, as a range inside of the parameter; size 0
/// where there is none.
struct ShardRange {
  int64_t begin = 0;
  int64_t size = 0;
};
ShardRange shard_of_slot(const Bucket& bucket, const BucketSlot& slot, int64_t rank,
                         int64_t world_size);

/// Which rank writes each parameter's state into a checkpoint: the one with the least to write so
/// far.
std::vector<int64_t> share_out(std::span<const int64_t> sizes, int64_t world_size);

/// Rows of one forward pass: `rows` windows from the `begin`-th of a rank's.
struct PassRows {
  int64_t begin = 0;
  int64_t rows = 0;

  bool operator==(const PassRows&) const = default;
};

/// Cuts `rows` windows into as few passes of at most `micro_bsz` as possible, as even as possible.
std::vector<PassRows> split_into_passes(int64_t rows, int64_t micro_bsz);

}  // namespace rwkv::trainer
