#include "trainer/optimizer.h"

#include <torch/torch.h>

#include <algorithm>
#include <cmath>
#include <span>
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

/// LibTorch's two fused kernels share their arguments: masters, gradients, first and second
/// moments, the unused ones of AMSGrad, steps; lr, betas, weight decay, eps; and two flags and two
/// factors.
using FusedUpdate = void (*)(at::TensorList, at::TensorList, at::TensorList, at::TensorList,
                             at::TensorList, at::TensorList, double, double, double, double, double,
                             bool, bool, const std::optional<at::Tensor>&,
                             const std::optional<at::Tensor>&);

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
      gradient_sums_(parameters_.size()),
      eps_(config.eps),
      grad_clip_(config.grad_clip),
      adam_w_mode_(uses_adam_w(config)) {
  for (size_t i = 0; i < parameters_.size(); ++i) {
    OptimizedParameter& parameter = parameters_[i];
    if (!parameter.master.defined()) {
      const bool is_float = parameter.value.scalar_type() == at::kFloat;
      parameter.master = is_float ? parameter.value : parameter.value.detach().to(at::kFloat);
    }
    TORCH_CHECK(parameter.master.scalar_type() == at::kFloat, "Adam: the master of ",
                parameter.name, " is ", parameter.master.scalar_type(), ", expected float32");
    TORCH_CHECK(parameter.master.sizes() == parameter.value.sizes(), "Adam: the master of ",
                parameter.name, " is ", parameter.master.sizes(), ", its value ",
                parameter.value.sizes());
    const bool frozen = !parameter.value.requires_grad();
    exp_avg_.push_back(frozen ? at::Tensor() : at::zeros_like(parameter.master));
    exp_avg_sq_.push_back(frozen ? at::Tensor() : at::zeros_like(parameter.master));
    if (frozen) continue;
    auto group = std::find_if(groups_.begin(), groups_.end(), [&](const Group& g) {
      return g.lr_scale == parameter.lr_scale && g.decays == parameter.decays;
    });
    if (group == groups_.end()) {
      group = groups_.insert(group, Group{parameter.lr_scale, parameter.decays, {}});
    }
    group->members.push_back(i);
  }
}

const at::Tensor& Adam::gradient(size_t i) const {
  return gradient_sums_[i].defined() ? gradient_sums_[i] : parameters_[i].value.grad();
}

void Adam::accumulate_gradients() {
  const torch::NoGradGuard no_grad;
  for (size_t i = 0; i < parameters_.size(); ++i) {
    at::Tensor& gradient = parameters_[i].value.mutable_grad();
    if (!gradient.defined() || gradient.scalar_type() == at::kFloat) continue;
    if (gradient_sums_[i].defined()) {
      gradient_sums_[i].add_(gradient);
    } else {
      gradient_sums_[i] = gradient.to(at::kFloat);
    }
    gradient.reset();
  }
}

double Adam::gradient_norm() const {
  RECORD_USER_SCOPE("rwkv::optimizer");
  std::vector<at::Tensor> norms;
  for (size_t i = 0; i < parameters_.size(); ++i) {
    if (!gradient(i).defined()) continue;
    norms.push_back(at::linalg_vector_norm(gradient(i), 2, {}, false, at::kDouble));
  }
  if (norms.empty()) return 0;
  // One copy from the device, not one for each parameter.
  const at::Tensor on_cpu = at::stack(norms).cpu();
  double sum = 0;
  for (const double norm : std::span(on_cpu.const_data_ptr<double>(), norms.size())) {
    sum += norm * norm;
  }
  return std::sqrt(sum);
}

std::string Adam::first_nonfinite_gradient() const {
  for (size_t i = 0; i < parameters_.size(); ++i) {
    if (gradient(i).defined() && !at::isfinite(gradient(i)).all().item<bool>()) {
      return parameters_[i].name;
    }
  }
  return {};
}

void Adam::step(const StepSettings& settings, double gradient_norm, double loss_scale) {
  RECORD_USER_SCOPE("rwkv::optimizer");
  const torch::NoGradGuard no_grad;
  ++steps_;
  double divisor = loss_scale;
  if (grad_clip_ > 0) divisor *= std::max(1.0, (gradient_norm + 1e-6) / grad_clip_);
  std::optional<at::Tensor> grad_scale;  // the fused kernel divides by it
  if (divisor != 1) {
    grad_scale = at::full({}, divisor, parameters_.front().master.options().requires_grad(false));
  }
  // So many elements of 16-bit gradients are widened at a time.
  constexpr int64_t kElementsAtATime = int64_t{1} << 25;
  for (const Group& group : groups_) {
    const double lr = settings.lr * group.lr_scale;
    const double weight_decay = group.decays ? settings.weight_decay : 0.0;
    std::vector<size_t> members;
    int64_t elements = 0;
    for (const size_t i : group.members) {
      if (!gradient(i).defined()) continue;
      members.push_back(i);
      elements += parameters_[i].value.numel();
      if (elements < kElementsAtATime) continue;
      update(members, lr, weight_decay, settings, grad_scale);
      members.clear();
      elements = 0;
    }
    if (!members.empty()) update(members, lr, weight_decay, settings, grad_scale);
  }
}

void Adam::update(const std::vector<size_t>& members, double lr, double weight_decay,
                  const StepSettings& settings, const std::optional<at::Tensor>& grad_scale) {
  std::vector<at::Tensor> masters;
  std::vector<at::Tensor> gradients;
  std::vector<at::Tensor> exp_avg;
  std::vector<at::Tensor> exp_avg_sq;
  for (const size_t i : members) {
    masters.push_back(parameters_[i].master);
    gradients.push_back(gradient(i).to(at::kFloat));
    exp_avg.push_back(exp_avg_[i]);
    exp_avg_sq.push_back(exp_avg_sq_[i]);
  }
  const at::Tensor step =
      at::full({}, static_cast<double>(steps_), masters.front().options().requires_grad(false));
  const std::vector<at::Tensor> steps(masters.size(), step);
  const auto fused = adam_w_mode_ ? FusedUpdate(at::_fused_adamw_) : FusedUpdate(at::_fused_adam_);
  fused(masters, gradients, exp_avg, exp_avg_sq, {}, steps, lr, settings.betas[0],
        settings.betas[1], weight_decay, eps_, /*amsgrad=*/false, /*maximize=*/false, grad_scale,
        std::nullopt);
  for (const size_t i : members) {
    OptimizedParameter& parameter = parameters_[i];
    if (!parameter.value.is_same(parameter.master)) parameter.value.copy_(parameter.master);
  }
}

void Adam::zero_grad() {
  RECORD_USER_SCOPE("rwkv::optimizer");
  for (OptimizedParameter& parameter : parameters_) parameter.value.mutable_grad().reset();
  for (at::Tensor& sum : gradient_sums_) sum.reset();
}

void Adam::copy_masters_to_values() {
  const torch::NoGradGuard no_grad;
  for (OptimizedParameter& parameter : parameters_) parameter.value.copy_(parameter.master);
}

void Adam::reset_moments() {
  for (auto* moments : {&exp_avg_, &exp_avg_sq_}) {
    for (at::Tensor& tensor : *moments) {
      if (tensor.defined()) tensor.zero_();
    }
  }
  steps_ = 0;
}

}  // namespace rwkv::trainer
