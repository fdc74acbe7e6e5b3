#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "trainer/config.h"
#include "trainer/distributed/gradient_buckets.h"
#include "trainer/distributed/rank_group.h"
#include "trainer/optimizer.h"

namespace rwkv::trainer {

/// Adam over all ranks of a group; for one process alone, Adam and nothing else.
///
/// Plain data parallel: every rank has the summed gradients, the masters and the moments of all
/// parameters, and makes the same update. ZeRO-1 (distributed.zero: 1; Rajbhandari et al. 2020,
/// arXiv:1910.02054): a rank has the sums, masters and moments of its shard of each bucket, updates
/// that, and the shards are put together. Both give the same bits: sums, norm and update see the
/// same numbers in the same groups (see kSlotAlignment).
///
/// All functions but the accessors are collective.
class ParallelOptimizer {
 public:
  ParallelOptimizer(RankGroup& group, std::vector<OptimizedParameter> parameters,
                    const OptimizerConfig& optimizer, const DistributedConfig& distributed);

  /// Before each backward pass of a step; in the `last` one gradients travel.
  void before_backward(bool last);
  /// After each of the `passes` of a step.
  void after_backward(int64_t passes);
  /// Waits for the sums; then the norm of the gradient over all ranks, as Adam::gradient_norm().
  double gradient_norm();
  void step(const StepSettings& settings, double gradient_norm, double loss_scale);
  void zero_grad();
  void reset_moments() { adam_->reset_moments(); }
  /// Of one process alone: name of the first parameter whose gradient is not finite, or nothing.
  [[nodiscard]] std::string first_nonfinite_gradient() const;
  /// Of this rank's own gradient after passes that were not the last, nothing sent.
  [[nodiscard]] std::string first_nonfinite_own_gradient() const;

  [[nodiscard]] int64_t steps() const { return adam_->steps(); }
  void set_steps(int64_t steps) { adam_->set_steps(steps); }
  /// Seconds of this step in which the rank had nothing to do but wait for sums.
  [[nodiscard]] double waited_s() const { return buckets_ ? buckets_->waited_s() : 0; }
  [[nodiscard]] RankGroup& group() { return group_; }

  using NamedTensors = std::vector<std::pair<std::string, at::Tensor>>;
  /// All fp32 masters, on rank 0; on others the list may be empty.
  NamedTensors masters();
  /// The moments that this rank writes, NAME.exp_avg and NAME.exp_avg_sq in the shape of NAME: all
  /// ranks' lists together hold each once.
  NamedTensors moments_to_write();
  /// Names and shapes of all moments.
  [[nodiscard]] std::vector<std::pair<std::string, std::vector<int64_t>>> moment_shapes() const;
  /// Fills masters and moments from whole tensors: `read(NAME, into)` for 16-bit parameters and
  /// `read(NAME.exp_avg, into)`; then rounds the masters into the module.
  void restore(const std::function<void(const std::string&, const at::Tensor&)>& read_master,
               const std::function<void(const std::string&, const at::Tensor&)>& read_moment);

 private:
  struct Piece {
    size_t parameter = 0;  // index into whole_
    size_t bucket = 0;
    BucketSlot slot;
    ShardRange range;
  };

  void make_pieces(const OptimizerConfig& optimizer);
  void hand_gradients_to_adam();
  void gather_values();
  /// The whole bucket, as `type`, of what every rank has a shard of; part k belongs to piece k.
  at::Tensor gather_bucket(size_t bucket, const std::vector<at::Tensor>& parts,
                           at::ScalarType type);
  /// gather_bucket() over all buckets; `take` gets each parameter's index and its whole tensor.
  void gather_all(const std::vector<at::Tensor>& parts, bool as_float32,
                  const std::function<void(size_t, const at::Tensor&)>& take);
  /// The rank that writes each parameter's moments; -1 for frozen ones.
  [[nodiscard]] std::vector<int64_t> writers() const;

  RankGroup& group_;
  bool sharded_ = false;
  std::vector<OptimizedParameter> whole_;     // of the module; with shards, without trained masters
  std::unique_ptr<GradientBuckets> buckets_;  // null for one process alone
  std::vector<Piece> pieces_;                 // with shards: what adam_ updates, in its order
  std::unique_ptr<Adam> adam_;
};

}  // namespace rwkv::trainer
