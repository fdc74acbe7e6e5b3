#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "trainer/config.h"

namespace rwkv::trainer {

/// One parameter as the optimizer sees it.
struct OptimizedParameter {
  std::string name;
  at::Tensor value;  // the module's: fp32, bf16 or fp16; frozen unless it requires_grad
  double lr_scale = 1.0;
  bool decays = false;  // in the weight-decay group
  /// The fp32 weight that learns; `value` is its rounded copy. Left undefined, it is `value` itself
  /// where that is fp32, else a copy of it.
  at::Tensor master = {};
};

/// Sorts parameters into RWKV's groups, by name: time_decay 2x, time_first 3x, all else 1x the
/// learning rate (stage 2: 5x for both, and for time_mix), and weight decay for tensors that keep
/// two or more dimensions when squeezed. Source: RWKV-LM `RWKV-v4neo/src/model.py`,
/// configure_optimizers.
void assign_groups(std::vector<OptimizedParameter>& parameters, const OptimizerConfig& config,
                   int64_t stage);

/// Whether weight decay is decoupled (AdamW) or an L2 term: `auto` means AdamW exactly when there
/// is any decay.
bool uses_adam_w(const OptimizerConfig& config);

/// What one update needs beside the gradients.
struct StepSettings {
  double lr = 0;
  std::array<double, 2> betas{0.9, 0.99};
  double weight_decay = 0;
};

/// Adam with bias correction and RWKV's parameter groups; fp32 masters and moments, updated by
/// LibTorch's fused kernels. 16-bit gradients are widened a few tensors at a time. A frozen
/// parameter is kept for its master alone: it has no moments and never changes.
///   L2 mode:    g += wd * p before the moments
///   AdamW mode: p -= lr * lr_scale * wd * p beside them
/// Clipping by global norm: all gradients are divided by max(1, (norm + 1e-6) / grad_clip).
class Adam {
 public:
  Adam(std::vector<OptimizedParameter> parameters, const OptimizerConfig& config);

  /// Moves the gradients that a micro-batch left in the module into fp32 sums. Needed where several
  /// micro-batches make a step and the module is 16-bit: sums in 16 bits would swallow small
  /// gradients. Does nothing for fp32 parameters, whose own gradients are such sums.
  void accumulate_gradients();

  /// Takes `gradient` (shaped like parameter i, any float type, read at the next step and then
  /// forgotten) instead of what the module's own parameter holds.
  void set_gradient(size_t i, at::Tensor gradient) { gradient_sums_.at(i) = std::move(gradient); }

  /// The L2 norm over all gradients, accumulated in double; parameters without a gradient count as
  /// zero. Of gradients that were computed with a loss scale: times that scale.
  [[nodiscard]] double gradient_norm() const;
  /// Name of the first parameter whose gradient holds a NaN or infinity; empty when there is none.
  [[nodiscard]] std::string first_nonfinite_gradient() const;
  /// One update from the gradients, which are divided by `loss_scale` and clipped by
  /// `gradient_norm` (that of the divided ones); counts steps from 1.
  void step(const StepSettings& settings, double gradient_norm, double loss_scale = 1);
  void zero_grad();
  /// Rounds the masters into the module, after they were loaded.
  void copy_masters_to_values();

  [[nodiscard]] const std::vector<OptimizedParameter>& parameters() const { return parameters_; }
  [[nodiscard]] int64_t steps() const { return steps_; }

  /// Moments in the order of parameters(), fp32, shaped like them; undefined for frozen ones. For
  /// checkpoints.
  [[nodiscard]] const std::vector<at::Tensor>& exp_avg() const { return exp_avg_; }
  [[nodiscard]] const std::vector<at::Tensor>& exp_avg_sq() const { return exp_avg_sq_; }
  void set_steps(int64_t steps) { steps_ = steps; }
  /// Forgets moments and step count, as a restart of the original programs does.
  void reset_moments();

 private:
  /// Where the gradient of parameter i is: the fp32 sum, else the module's; undefined for none.
  [[nodiscard]] const at::Tensor& gradient(size_t i) const;
  void update(const std::vector<size_t>& members, double lr, double weight_decay,
              const StepSettings& settings, const std::optional<at::Tensor>& grad_scale);

  struct Group {
    double lr_scale = 1.0;
    bool decays = false;
    std::vector<size_t> members;
  };

  std::vector<OptimizedParameter> parameters_;
  std::vector<Group> groups_;
  std::vector<at::Tensor> exp_avg_, exp_avg_sq_;
  std::vector<at::Tensor> gradient_sums_;  // undefined where none was accumulated or set
  double eps_;
  double grad_clip_;
  bool adam_w_mode_;
  int64_t steps_ = 0;
};

}  // namespace rwkv::trainer
