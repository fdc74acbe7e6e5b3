#include "trainer/optimizer.h"

#include <torch/torch.h>

#include <algorithm>
#include <cmath>
#include <utility>

namespace rwkv::trainer {
namespace {

bool contains(const std::string& name, const char* part) {
  return name.find(part) != std::string::npos;
}

/// Multiplier of the learning rate for a name that has one of its own, else 0. The first match
/// wins.
double layerwise_scale(const std::string& name, int64_t stage) {
  const bool stage2 = stage == 2;
  if (contains(name, "time_mix")) return stage2 ? 5.0 : 1.0;
  if (contains(name, "time_decay")) return stage2 ? 5.0 : 2.0;
  if (contains(name, "time_first")) return stage2 ? 5.0 : 3.0;
  return 0.0;
}

int64_t squeezed_dim(const at::Tensor& tensor) {
  return std::count_if(tensor.sizes().begin(), tensor.sizes().end(),
                       [](int64_t size) { return size != 1; });
}

}  // namespace

void assign_groups(std::vector<OptimizedParameter>& parameters, const OptimizerConfig& config,
                   int64_t stage) {
  for (OptimizedParameter& parameter : parameters) {
    const double scale = config.layerwise_lr ? layerwise_scale(parameter.name, stage) : 0.0;
    parameter.lr_scale = scale > 0 ? scale : 1.0;
    parameter.decays = scale == 0 && config.weight_decay > 0 && squeezed_dim(parameter.value) >= 2;
  }
}

bool uses_adam_w(const OptimizerConfig& config) {
  if (config.adam_w_mode == AdamMode::kAuto) return config.weight_decay > 0;
  return config.adam_w_mode == AdamMode::kAdamW;
}

Adam::Adam(std::vector<OptimizedParameter> parameters, const OptimizerConfig& config)
    : parameters_(std::move(parameters)),
      eps_(config.eps),
      grad_clip_(config.grad_clip),
      adam_w_mode_(uses_adam_w(config)) {
  for (size_t i = 0; i < parameters_.size(); ++i) {
    const OptimizedParameter& parameter = parameters_[i];
    TORCH_CHECK(parameter.value.scalar_type() == at::kFloat, "Adam: ", parameter.name, " is ",
                parameter.value.scalar_type(), ", masters must be float32");
    exp_avg_.push_back(at::zeros_like(parameter.value));
    exp_avg_sq_.push_back(at::zeros_like(parameter.value));
    auto group = std::find_if(groups_.begin(), groups_.end(), [&](const Group& g) {
      return g.lr_scale == parameter.lr_scale && g.decays == parameter.decays;
    });
    if (group == groups_.end()) {
      group = groups_.insert(group, Group{parameter.lr_scale, parameter.decays, {}});
    }
    group->members.push_back(i);
  }
}

double Adam::gradient_norm() const {
  RECORD_USER_SCOPE("rwkv::optimizer");
  double sum = 0;
  for (const OptimizedParameter& parameter : parameters_) {
    const at::Tensor& gradient = parameter.value.grad();
    if (!gradient.defined()) continue;
    const auto norm = at::linalg_vector_norm(gradient, 2, {}, false, at::kDouble).item<double>();
    sum += norm * norm;
  }
  return std::sqrt(sum);
}

std::string Adam::first_nonfinite_gradient() const {
  for (const OptimizedParameter& parameter : parameters_) {
    const at::Tensor& gradient = parameter.value.grad();
    if (gradient.defined() && !at::isfinite(gradient).all().item<bool>()) return parameter.name;
  }
  return {};
}

void Adam::step(const StepSettings& settings, double gradient_norm) {
  RECORD_USER_SCOPE("rwkv::optimizer");
  const torch::NoGradGuard no_grad;
  ++steps_;
  const at::Tensor step = at::full({}, static_cast<double>(steps_), at::kFloat);
  std::optional<at::Tensor> grad_scale;  // the fused kernel divides by it
  if (grad_clip_ > 0) {
    const double excess = (gradient_norm + 1e-6) / grad_clip_;
    if (excess > 1) grad_scale = at::full({}, excess, at::kFloat);
  }
  for (const Group& group : groups_) {
    std::vector<at::Tensor> values;
    std::vector<at::Tensor> gradients;
    std::vector<at::Tensor> exp_avg;
    std::vector<at::Tensor> exp_avg_sq;
    for (const size_t i : group.members) {
      const at::Tensor& value = parameters_[i].value;
      if (!value.grad().defined()) continue;
      values.push_back(value);
      gradients.push_back(value.grad());
      exp_avg.push_back(exp_avg_[i]);
      exp_avg_sq.push_back(exp_avg_sq_[i]);
    }
    if (values.empty()) continue;
    const std::vector<at::Tensor> steps(values.size(), step);
    const double lr = settings.lr * group.lr_scale;
    const double weight_decay = group.decays ? settings.weight_decay : 0.0;
    if (adam_w_mode_) {
      at::_fused_adamw_(values, gradients, exp_avg, exp_avg_sq, {}, steps, lr, settings.betas[0],
                        settings.betas[1], weight_decay, eps_, /*amsgrad=*/false,
                        /*maximize=*/false, grad_scale);
    } else {
      at::_fused_adam_(values, gradients, exp_avg, exp_avg_sq, {}, steps, lr, settings.betas[0],
                       settings.betas[1], weight_decay, eps_, /*amsgrad=*/false, /*maximize=*/false,
                       grad_scale);
    }
  }
}

void Adam::zero_grad() {
  RECORD_USER_SCOPE("rwkv::optimizer");
  for (OptimizedParameter& parameter : parameters_) parameter.value.mutable_grad().reset();
}

void Adam::reset_moments() {
  for (at::Tensor& tensor : exp_avg_) tensor.zero_();
  for (at::Tensor& tensor : exp_avg_sq_) tensor.zero_();
  steps_ = 0;
}

}  // namespace rwkv::trainer
