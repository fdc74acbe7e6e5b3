#include "trainer/flops.h"

#include <torch/torch.h>

namespace rwkv::trainer {

int64_t matrix_product_weights(const model::LanguageModel& model) {
  int64_t weights = 0;
  for (const auto& parameter : model.named_parameters()) {
    const at::Tensor& value = parameter.value();
    if (value.dim() == 2 && parameter.key() != "emb.weight") weights += value.numel();
  }
  return weights;
}

double model_flops_per_token(const model::LanguageModel& model, int64_t ctx_len) {
  TORCH_CHECK(ctx_len > 0, "model_flops_per_token: ctx_len is ", ctx_len, ", must be positive");
  const auto pairs = static_cast<double>(ctx_len) * static_cast<double>(model.config().head_qk);
  return 6 * (static_cast<double>(matrix_product_weights(model)) + pairs);
}

}  // namespace rwkv::trainer
