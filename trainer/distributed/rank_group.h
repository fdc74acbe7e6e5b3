#pragma once

#include <ATen/core/Tensor.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "trainer/distributed/environment.h"

namespace rwkv::trainer {

struct GroupOptions {
  std::chrono::seconds timeout{600};  // for whatever one rank waits for from another
  bool allow_public_address = false;
  std::string build;  // must be the same for all ranks
};

/// A reduction under way; its tensors must live until RankGroup::wait().
class PendingWork;
using Pending = std::shared_ptr<PendingWork>;

/// The processes that train together, on LibTorch's c10d: a store for texts, Gloo for tensors on
/// the CPU, NCCL for those on CUDA devices. Every rank must call the collective functions in the
/// same order. One process alone is a group too: its collectives return at once.
///
/// A rank that dies, stops or does not come within the timeout turns into a PeerLostError with its
/// name on all others. What they name is agreed upon: the first to notice leaves its verdict.
class RankGroup {
 public:
  /// One process alone.
  RankGroup();
  /// Meets the other ranks. Throws UserError for addresses and for ranks that contradict each
  /// other (twice the same one, another world size, another build), PeerLostError for missing ones.
  RankGroup(const RankEnvironment& environment, const GroupOptions& options);
  RankGroup(const RankGroup&) = delete;
  RankGroup& operator=(const RankGroup&) = delete;
  ~RankGroup();

  [[nodiscard]] int64_t rank() const { return rank_; }
  [[nodiscard]] int64_t world_size() const { return world_size_; }
  [[nodiscard]] int64_t local_rank() const { return local_rank_; }
  [[nodiscard]] int64_t local_world_size() const { return local_world_size_; }
  /// Rank 0: shows progress, writes logs, publishes checkpoints.
  [[nodiscard]] bool is_main() const { return rank_ == 0; }
  [[nodiscard]] bool is_alone() const { return world_size_ == 1; }
  /// "rank 1 (process 4711 on node3)".
  [[nodiscard]] std::string name_of(int64_t rank) const;

  /// Collectives for tensors on a CUDA device, by NCCL. Throws UserError in a build without it.
  void use_cuda(at::Device device);

  /// The texts of all ranks, by rank. `what` says what a rank is missing that does not come.
  std::vector<std::string> exchange(std::string_view what, const std::string& text);
  /// Rank 0's text.
  std::string from_main(std::string_view what, const std::string& text);
  /// Runs `work` on rank 0, then on the others at the same time: for files that the first one
  /// writes.
  void main_first(std::string_view what, const std::function<void()>& work);
  /// The numbers of all ranks, one after the other by rank.
  std::vector<double> gather(std::span<const double> numbers);
  /// The sum of a number over the ranks, in the order of ranks.
  double sum(double number);

  /// Sums `flat` over the ranks, in place.
  Pending all_reduce(const at::Tensor& flat);
  /// Writes this rank's part of the sum of `flat`, whose size is a multiple of the world size.
  Pending reduce_scatter(const at::Tensor& shard, const at::Tensor& flat);
  /// Puts the shards of all ranks together.
  void all_gather(const at::Tensor& flat, const at::Tensor& shard);
  void wait(const Pending& pending);

  /// What the heartbeat says from now on.
  void at_step(int64_t step);
  /// Tells the others why this rank ends; they will name the reason. Throws nothing.
  void leave(const std::string& reason) noexcept;
  /// Waits for the others at the end of a run, so that nobody misses one who is done.
  void finish();

 private:
  struct Connection;

  void meet(const RankEnvironment& environment, const GroupOptions& options);
  [[noreturn]] void fail(const std::string& what);
  std::string find_culprit();
  /// Who holds the store stays until the others have read in it why the run ends.
  void linger();
  /// Fails with a text about ranks whose keys `prefix/RANK` did not come.
  void wait_for_keys(const std::string& prefix, std::string_view what);

  int64_t rank_ = 0;
  int64_t world_size_ = 1;
  int64_t local_rank_ = 0;
  int64_t local_world_size_ = 1;
  int64_t exchanges_ = 0;
  std::vector<std::string> names_;
  std::unique_ptr<Connection> connection_;  // null for one process alone
};

}  // namespace rwkv::trainer
