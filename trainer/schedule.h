#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include "trainer/config.h"

namespace rwkv::trainer {

/// Mini-epochs, the clock of RWKV-4neo's and RWKV-7's schedules and the numbers of rwkv-N.pth.
struct MiniEpochs {
  int64_t steps = 1000;  // updates per mini-epoch
  int64_t count = 500;   // mini-epochs until the lr is at its end
  int64_t stage = -1;    // train.stage
};

/// In stages 1 to 4 a mini-epoch has 40320 samples (8!, so that many batch sizes divide it) and
/// there are floor(magic_prime / 40320) of them; otherwise train.epoch_steps steps and 500.
/// `magic_prime` 0 means that none is known (stage 4): 500.
MiniEpochs mini_epochs(const TrainConfig& train, int64_t magic_prime);

/// Where a run stands before an update.
struct SchedulePosition {
  /// Updates of the run so far; mini-epochs done before a start from weights alone count.
  int64_t step = 0;
  /// Tokens consumed by those updates.
  int64_t tokens = 0;
  /// Updates since Adam's moments were zero. Equal to `step`, except after a start from weights
  /// alone in mid-run. An exact resume restores it.
  int64_t steps_since_start = 0;
};

/// What an update uses.
struct SchedulePoint {
  double lr = 0.0;  // before the multipliers of the parameter groups
  std::array<double, 2> betas{};
  double weight_decay = 0.0;        // of the groups that decay
  bool finished = false;            // the schedule is over: do not make this update
  std::optional<int64_t> real_bsz;  // set when a segment names a batch size
};

/// Learning rate, betas and weight decay as a pure function of the position, in double arithmetic.
/// The kinds named after trainers of BlinkDL/RWKV-LM give their numbers bit for bit
/// (RWKV-v4neo/src/trainer.py, RWKV-v7/train_temp/src/trainer.py, RWKV-v4/src/trainer.py,
/// RWKV-v2-RNN/src/trainer.py), but for one: the cosine of v1 and v2 stays at lr_final past
/// final_tokens, where theirs rises again.
class Schedule {
 public:
  /// `real_bsz`: samples per step over all devices. Throws UserError when a mini-epoch schedule has
  /// no room for its decay after warm-up and plateau.
  Schedule(const ScheduleConfig& config, const OptimizerConfig& optimizer, int64_t ctx_len,
           int64_t real_bsz, const MiniEpochs& epochs = {});

  [[nodiscard]] SchedulePoint at(const SchedulePosition& position) const;

  /// The rate at which the run sets out, without warm-up; RWKV-4neo starts its embedding within +-
  /// this.
  [[nodiscard]] double lr_init() const;

 private:
  [[nodiscard]] SchedulePoint segments_at(const SchedulePosition& position) const;
  [[nodiscard]] SchedulePoint epochs_at(const SchedulePosition& position) const;
  [[nodiscard]] SchedulePoint tokens_at(const SchedulePosition& position) const;
  [[nodiscard]] double warmup_factor(const SchedulePosition& position) const;
  [[nodiscard]] int64_t warmup_steps(const SchedulePosition& position) const;
  [[nodiscard]] double decayed_weight_decay(double progress) const;
  void check_room() const;

  ScheduleConfig config_;
  OptimizerConfig optimizer_;
  double tokens_per_step_;
  MiniEpochs epochs_;
};

/// Rate after `tokens` tokens in the trainers of v1 and v2 (cosine) or v3 and v4 (exponential), as
/// they compute it: the cosine is not held at its end.
double lr_by_tokens(const ScheduleConfig& config, int64_t tokens);

/// Factors on the rate of RWKV-4's parameter groups: [1x list, 2x list, 3x list], or [1x] without
/// layerwise_lr, and one more (1) for the group with weight decay when there is any. In stage 2 the
/// 2x and 3x lists both learn at 5x (RWKV-v4neo/src/model.py, configure_optimizers).
std::vector<double> lr_multipliers(const OptimizerConfig& optimizer, int64_t stage);

}  // namespace rwkv::trainer
