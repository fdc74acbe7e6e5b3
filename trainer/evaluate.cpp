#include "trainer/evaluate.h"

#include <torch/torch.h>

#include <algorithm>
#include <vector>

#include "data/base/error.h"
#include "data/batch_loader.h"
#include "data/loss_mask.h"
#include "model/head_loss.h"

namespace rwkv::trainer {
namespace {

struct WeightedSum {
  double loss = 0;
  double weight = 0;
};

/// Cross entropy of each target, [B,T]. Models for inference alone have no head of their own to
/// chunk: they give their logits.
at::Tensor token_losses(model::LanguageModel& model, const at::Tensor& inputs,
                        const at::Tensor& targets) {
  if (auto* const head_model = dynamic_cast<model::HeadModel*>(&model)) {
    return model::head_cross_entropy(head_model->forward_to_head(inputs), targets);
  }
  const at::Tensor log_p = at::log_softmax(model.forward(inputs), -1);
  return -log_p.gather(-1, targets.unsqueeze(-1)).squeeze(-1);
}

/// Sum of the cross entropy of `targets`, in double: windows of a batch weigh the same whatever its
/// size. `weights` (may be undefined) are those of the targets.
WeightedSum sum_of_loss(model::LanguageModel& model, const at::Tensor& inputs,
                        const at::Tensor& targets, const at::Tensor& weights) {
  const at::Device device = model.parameters().front().device();
  at::Tensor loss = token_losses(model, inputs.to(device), targets.to(device));
  if (weights.defined()) loss = loss * weights.to(device);
  return {.loss = loss.sum(at::kDouble).item<double>(),
          .weight = weights.defined() ? weights.sum(at::kDouble).item<double>()
                                      : static_cast<double>(targets.numel())};
}

template <typename T>
std::span<T> span_of(const at::Tensor& tensor) {
  return {tensor.mutable_data_ptr<T>(), static_cast<size_t>(tensor.numel())};
}

}  // namespace

void check_validation_mask(const data::TokenSource& text, const ValidationPlan& plan) {
  if (plan.loss_mask == nullptr) return;
  const std::vector<int64_t> offsets = data::validation_offsets(
      text.size(), plan.ctx_len, "validation: " + text.name(), plan.windows);
  std::vector<float> weights(static_cast<size_t>(plan.ctx_len));
  for (const int64_t offset : offsets) {
    data::fill_loss_mask(*plan.loss_mask, std::span(&offset, 1), plan.ctx_len, weights);
    if (std::ranges::any_of(weights, [](float w) { return w > 0; })) return;
  }
  user_error(
      "validation: none of the {} windows of {} holds a token that its loss mask counts; raise "
      "validation.windows or use another text",
      offsets.size(), text.name());
}

double validation_loss(model::LanguageModel& model, const data::TokenSource& text,
                       const ValidationPlan& plan,
                       const std::function<void(int64_t, int64_t)>& on_progress) {
  TORCH_CHECK(plan.ctx_len > 0 && plan.micro_bsz > 0, "validation_loss: ctx_len ", plan.ctx_len,
              ", micro_bsz ", plan.micro_bsz, ": both must be positive");
  const torch::NoGradGuard no_grad;
  const std::vector<int64_t> offsets = data::validation_offsets(
      text.size(), plan.ctx_len, "validation: " + text.name(), plan.windows);
  const auto n = static_cast<int64_t>(offsets.size());
  WeightedSum sum;
  for (int64_t first = plan.rank * plan.micro_bsz; first < n;
       first += plan.world_size * plan.micro_bsz) {
    const int64_t rows = std::min(plan.micro_bsz, n - first);
    const at::Tensor inputs = at::empty({rows, plan.ctx_len}, at::kLong);
    const at::Tensor targets = at::empty_like(inputs);
    const auto windows =
        std::span(offsets).subspan(static_cast<size_t>(first), static_cast<size_t>(rows));
    data::fill_windows(text, windows, plan.ctx_len, span_of<int64_t>(inputs),
                       span_of<int64_t>(targets), model.config().vocab_size);
    at::Tensor weights;
    if (plan.loss_mask != nullptr) {
      weights = at::empty({rows, plan.ctx_len}, at::kFloat);
      data::fill_loss_mask(*plan.loss_mask, windows, plan.ctx_len, span_of<float>(weights));
    }
    const WeightedSum part = sum_of_loss(model, inputs, targets, weights);
    sum.loss += part.loss;
    sum.weight += part.weight;
    if (on_progress) on_progress(first + rows, n);
  }
  sum.loss = plan.sum_over_ranks(sum.loss);
  sum.weight = plan.sum_over_ranks(sum.weight);
  TORCH_CHECK(sum.weight > 0, "validation_loss: no token counts");
  return sum.loss / sum.weight;
}

}  // namespace rwkv::trainer
