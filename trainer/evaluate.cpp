#include "trainer/evaluate.h"

#include <torch/torch.h>

#include <algorithm>
#include <vector>

#include "data/batch_loader.h"

namespace rwkv::trainer {
namespace {

/// Sum of the cross entropy of `targets`, in double: windows of a batch weigh the same whatever its
/// size.
double sum_of_loss(model::LanguageModel& model, const at::Tensor& inputs,
                   const at::Tensor& targets) {
  const at::Device device = model.parameters().front().device();
  const at::Tensor logits = model.forward(inputs.to(device));
  const auto math = logits.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const at::Tensor log_p = at::log_softmax(logits, -1, math);
  return -log_p.gather(-1, targets.to(device).unsqueeze(-1)).sum(at::kDouble).item<double>();
}

std::span<int64_t> span_of(const at::Tensor& ids) {
  return {ids.mutable_data_ptr<int64_t>(), static_cast<size_t>(ids.numel())};
}

}  // namespace

double validation_loss(model::LanguageModel& model, const data::TokenSource& text,
                       const ValidationPlan& plan,
                       const std::function<void(int64_t, int64_t)>& on_progress) {
  TORCH_CHECK(plan.ctx_len > 0 && plan.micro_bsz > 0, "validation_loss: ctx_len ", plan.ctx_len,
              ", micro_bsz ", plan.micro_bsz, ": both must be positive");
  const torch::NoGradGuard no_grad;
  const std::vector<int64_t> offsets = data::validation_offsets(
      text.size(), plan.ctx_len, "validation: " + text.name(), plan.windows);
  const auto n = static_cast<int64_t>(offsets.size());
  double sum = 0;
  for (int64_t first = plan.rank * plan.micro_bsz; first < n;
       first += plan.world_size * plan.micro_bsz) {
    const int64_t rows = std::min(plan.micro_bsz, n - first);
    const at::Tensor inputs = at::empty({rows, plan.ctx_len}, at::kLong);
    const at::Tensor targets = at::empty_like(inputs);
    const auto windows =
        std::span(offsets).subspan(static_cast<size_t>(first), static_cast<size_t>(rows));
    data::fill_windows(text, windows, plan.ctx_len, span_of(inputs), span_of(targets),
                       model.config().vocab_size);
    sum += sum_of_loss(model, inputs, targets);
    if (on_progress) on_progress(first + rows, n);
  }
  return plan.sum_over_ranks(sum) / static_cast<double>(n * plan.ctx_len);
}

}  // namespace rwkv::trainer
