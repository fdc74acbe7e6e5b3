#include "model/blocks.h"

#include <ATen/record_function.h>
#include <torch/torch.h>

#include <utility>

namespace rwkv::model {

at::Tensor sum_of(const Residual& residual) {
  return residual.delta_BTC.defined() ? residual.x_BTC + residual.delta_BTC : residual.x_BTC;
}

ops::NormMixLinearResult norm_mix_linear(const Residual& residual, torch::nn::LayerNorm& norm,
                                         State* state, const std::string& key,
                                         const std::vector<ops::MixedLinear>& products) {
  const at::Tensor previous_BC = state == nullptr ? at::Tensor() : state->get(key);
  ops::NormMixLinearResult result = ops::norm_mix_linear(
      residual.x_BTC, residual.delta_BTC, {norm->weight, norm->bias, norm->options.eps()},
      previous_BC, /*reset=*/{}, products);
  if (state != nullptr) state->set(key, result.last);
  return result;
}

torch::nn::LayerNorm layer_norm(int64_t n_embd) {
  return torch::nn::LayerNorm(torch::nn::LayerNormOptions({n_embd}).eps(1e-5));
}

torch::nn::Linear linear(int64_t in, int64_t out) {
  return torch::nn::Linear(torch::nn::LinearOptions(in, out).bias(false));
}

ChannelMixImpl::ChannelMixImpl(std::string name, int64_t n_embd, int64_t dim_ffn)
    : time_mix_k(register_parameter("time_mix_k", at::zeros({1, 1, n_embd}))),
      time_mix_r(register_parameter("time_mix_r", at::zeros({1, 1, n_embd}))),
      key(register_module("key", linear(n_embd, dim_ffn))),
      receptance(register_module("receptance", linear(n_embd, n_embd))),
      value(register_module("value", linear(dim_ffn, n_embd))),
      state_xx_(std::move(name) + ".xx") {}

at::Tensor ChannelMixImpl::forward(const Residual& residual, torch::nn::LayerNorm& norm,
                                   State* state) {
  RECORD_USER_SCOPE("rwkv::channel_mix");
  const auto [x_BTC, last_BC, products] =
      norm_mix_linear(residual, norm, state, state_xx_,
                      {{time_mix_k, key->weight}, {time_mix_r, receptance->weight}});
  const at::Tensor& k_BTF = products[0];
  const at::Tensor& r_BTC = products[1];
  return ops::gate_residual(x_BTC, r_BTC, ops::relu_square_linear(k_BTF, value->weight));
}

}  // namespace rwkv::model
