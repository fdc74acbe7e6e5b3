#include "trainer/loss.h"

#include <ATen/record_function.h>
#include <torch/torch.h>

namespace rwkv::trainer {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// Weight of each row's cross entropy in the loss: 1/N, or mask / sum(mask) (all zero when the mask
/// is).
at::Tensor row_weights(const at::Tensor& mask, int64_t rows, const at::TensorOptions& options) {
  if (!mask.defined()) return at::full({rows}, 1.0 / static_cast<double>(rows), options);
  const at::Tensor weights = mask.to(options.dtype());
  const at::Tensor sum = weights.sum();
  return at::where(sum > 0, weights / sum, at::zeros_like(weights));
}

/// One log-softmax kept for the backward pass, whose gradient is built in place of it: two matrices
/// [N,V] in all, where log_softmax, nll_loss and a separate L2Wrap would hold five. Computes in
/// float32 from 16-bit logits, whose sums over a vocabulary would drown in rounding.
class CrossEntropyL2Wrap : public torch::autograd::Function<CrossEntropyL2Wrap> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& logits_NV,
                            const at::Tensor& targets_N, const at::Tensor& weights_N,
                            double l2wrap_factor, bool ignore_incoming_gradient) {
    const at::Tensor log_p_NV = at::log_softmax(logits_NV, 1, weights_N.scalar_type());
    const at::Tensor ce_N = -log_p_NV.gather(1, targets_N.unsqueeze(1)).squeeze(1);
    at::Tensor max_value;
    at::Tensor max_index;
    if (l2wrap_factor != 0) std::tie(max_value, max_index) = logits_NV.max(1, /*keepdim=*/true);
    context->save_for_backward({log_p_NV, targets_N, weights_N, max_value, max_index});
    context->saved_data["factor"] = l2wrap_factor;
    context->saved_data["ignore"] = ignore_incoming_gradient;
    context->saved_data["dtype"] = logits_NV.scalar_type();
    return (ce_N * weights_N).sum();
  }

  static variable_list backward(AutogradContext* context, variable_list incoming) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor& targets_N = saved[1];
    const at::Tensor weights_N1 = saved[2].unsqueeze(1);
    at::Tensor gradient = saved[0].exp();
    gradient.mul_(weights_N1);
    gradient.scatter_add_(1, targets_N.unsqueeze(1), -weights_N1);
    const double factor = context->saved_data["factor"].toDouble();
    const bool ignore = context->saved_data["ignore"].toBool();
    const auto add_l2wrap = [&] {
      const double scale = factor / static_cast<double>(gradient.size(0));
      gradient.scatter_add_(1, saved[4], saved[3].to(gradient.scalar_type()) * scale);
    };
    if (factor != 0 && !ignore) add_l2wrap();
    gradient.mul_(incoming[0]);
    if (factor != 0 && ignore) add_l2wrap();
    return {gradient.to(context->saved_data["dtype"].toScalarType()), {}, {}, {}, {}};
  }
};

}  // namespace

at::Tensor cross_entropy(const at::Tensor& logits, const at::Tensor& targets, const L2Wrap& l2wrap,
                         const at::Tensor& mask) {
  RECORD_USER_SCOPE("rwkv::loss");
  TORCH_CHECK(logits.dim() >= 2 && logits.sizes().slice(0, logits.dim() - 1) == targets.sizes(),
              "cross_entropy: logits ", logits.sizes(), " do not fit targets ", targets.sizes());
  TORCH_CHECK(targets.scalar_type() == at::kLong, "cross_entropy: targets must be int64, got ",
              targets.scalar_type());
  TORCH_CHECK(!mask.defined() || mask.sizes() == targets.sizes(), "cross_entropy: mask ",
              mask.defined() ? mask.sizes() : at::IntArrayRef{}, " does not fit targets ",
              targets.sizes());
  TORCH_CHECK(targets.numel() > 0, "cross_entropy: no targets");
  const at::Tensor logits_NV = logits.reshape({-1, logits.size(-1)});
  const auto math = logits.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const at::Tensor weights_N =
      row_weights(mask.defined() ? mask.reshape({-1}) : mask, targets.numel(),
                  logits_NV.options().dtype(math).requires_grad(false));
  return CrossEntropyL2Wrap::apply(logits_NV, targets.reshape({-1}), weights_N, l2wrap.factor,
                                   l2wrap.ignore_incoming_gradient);
}

at::Tensor head_cross_entropy(const model::HeadInput& head, const at::Tensor& targets,
                              const L2Wrap& l2wrap, const at::Tensor& mask,
                              double expected_gradient) {
  RECORD_USER_SCOPE("rwkv::head");
  TORCH_CHECK(targets.numel() > 0, "cross_entropy: no targets");
  TORCH_CHECK(!mask.defined() || mask.sizes() == targets.sizes(), "cross_entropy: mask ",
              mask.defined() ? mask.sizes() : at::IntArrayRef{}, " does not fit targets ",
              targets.sizes());
  const auto math = head.x_BTC.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const at::Tensor weights_N =
      row_weights(mask.defined() ? mask.reshape({-1}) : mask, targets.numel(),
                  head.x_BTC.options().dtype(math).requires_grad(false));
  return model::head_loss(head, targets,
                          {.weights_BT = weights_N.view(targets.sizes()),
                           .l2wrap = l2wrap.factor / static_cast<double>(targets.numel()),
                           .expected_gradient = expected_gradient,
                           .l2wrap_ignores_gradient = l2wrap.ignore_incoming_gradient});
}

}  // namespace rwkv::trainer
