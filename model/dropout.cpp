#include "model/dropout.h"

#include <torch/torch.h>

#include "data/counter_rng.h"

namespace rwkv::model {

Dropout::Dropout(double p, uint64_t seed) : p_(p), seed_(seed) {
  TORCH_CHECK(p >= 0 && p < 1, "Dropout: p must be in [0,1), got ", p);
}

at::Tensor Dropout::operator()(const at::Tensor& x, int64_t site) const {
  if (p_ == 0) return x;
  at::Generator generator = at::globalContext().defaultGenerator(x.device()).clone();
  generator.set_current_seed(data::random_bits(seed_, static_cast<uint64_t>(site), 0));
  const at::Tensor kept = at::empty(x.sizes(), x.options().dtype(at::kBool).requires_grad(false));
  kept.bernoulli_(1 - p_, generator);
  return x * kept / (1 - p_);
}

}  // namespace rwkv::model
