#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "trainer/distributed/bucket_layout.h"
#include "trainer/distributed/rank_group.h"

namespace rwkv::trainer {

struct BucketOptions {
  int64_t bucket_bytes = 25 << 20;        // of fp32 gradients
  at::ScalarType reduce_in = at::kFloat;  // or kBFloat16: half the bytes, rounded before the sum
  bool sharded = false;                   // each rank gets its shard of the sums only (ZeRO-1)
};

/// The gradients of a model in flat fp32 buckets, summed over the ranks while the backward pass
/// still runs: a hook moves each gradient into its bucket, and a full bucket is sent off as soon as
/// all before it were, so that every rank sends them in the same order.
///
/// A step is: backward() around each pass with `last` for the final one, whose hooks send;
/// finish(); gradients are there; clear().
class GradientBuckets {
 public:
  /// `parameters`: those of the module; what does not require a gradient is left out.
  GradientBuckets(RankGroup& group, std::vector<at::Tensor> parameters,
                  const BucketOptions& options);
  GradientBuckets(const GradientBuckets&) = delete;
  GradientBuckets& operator=(const GradientBuckets&) = delete;
  ~GradientBuckets();

  /// Before a backward pass; nothing is sent but in the `last` one of a step.
  void before_backward(bool last);
  /// Sends what is left and waits for the sums.
  void finish();
  /// Forgets the gradients.
  void clear();

  [[nodiscard]] const std::vector<Bucket>& layout() const { return layout_; }
  /// Whether the last backward passes gave parameter i a gradient.
  [[nodiscard]] bool has_gradient(size_t i) const { return filled_[i]; }
  /// The summed gradient of a slot, fp32 [size]; with shards, the part in this rank's one.
  [[nodiscard]] at::Tensor gradient(size_t bucket, const BucketSlot& slot) const;
  /// The L2 norm over all parameters and ranks: the same bits with shards and without.
  double norm();
  /// Index of the first parameter whose own gradient, before any sum, is not finite; -1 for none.
  /// Only between a pass without `last` and clear().
  [[nodiscard]] int64_t first_nonfinite() const;
  /// Seconds that finish() waited since the last clear().
  [[nodiscard]] double waited_s() const { return waited_s_; }

 private:
  class Hook;
  struct Flat {
    at::Tensor sums;   // fp32 [bucket.size]
    at::Tensor shard;  // fp32 [bucket.size / world_size]; undefined without shards
    at::Tensor sent;   // what travels: `sums` itself, or a rounded copy
    at::Tensor received;
    int64_t missing = 0;  // gradients that have not come yet
    Pending pending;
  };

  void on_gradient(size_t i);
  void send_full_buckets();
  void send(size_t bucket);
  double sum_of_squares(int64_t rank) const;

  RankGroup& group_;
  std::vector<at::Tensor> parameters_;
  BucketOptions options_;
  std::vector<Bucket> layout_;
  std::vector<Flat> flats_;
  struct Place {
    size_t bucket = 0;
    BucketSlot slot;
  };
  std::vector<Place> places_;  // by parameter
  std::vector<bool> filled_;
  size_t next_to_send_ = 0;
  bool last_ = false;
  double waited_s_ = 0;
};

}  // namespace rwkv::trainer
