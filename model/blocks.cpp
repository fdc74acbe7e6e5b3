#include "model/blocks.h"

#include <ATen/record_function.h>
#include <torch/torch.h>

#include <utility>

namespace rwkv::model {

at::Tensor time_shift(const at::Tensor& x_BTC, const at::Tensor& previous_BC) {
  TORCH_CHECK(x_BTC.dim() == 3, "time_shift: x must be [B,T,C], got ", x_BTC.sizes());
  if (!previous_BC.defined()) return at::constant_pad_nd(x_BTC, {0, 0, 1, -1});
  TORCH_CHECK(previous_BC.dim() == 2 && previous_BC.size(0) == x_BTC.size(0) &&
                  previous_BC.size(1) == x_BTC.size(2),
              "time_shift: the state's row is ", previous_BC.sizes(), ", x is ", x_BTC.sizes());
  const int64_t T = x_BTC.size(1);
  return at::cat({previous_BC.unsqueeze(1), x_BTC.slice(1, 0, T - 1)}, 1);
}

at::Tensor time_mix(const at::Tensor& x_BTC, const at::Tensor& shifted_BTC, const at::Tensor& m) {
  return at::lerp(shifted_BTC, x_BTC, m);
}

at::Tensor shift_with_state(const at::Tensor& x_BTC, State* state, const std::string& key) {
  if (state == nullptr) return time_shift(x_BTC, {});
  const at::Tensor shifted = time_shift(x_BTC, state->get(key));
  state->set(key, x_BTC.select(1, x_BTC.size(1) - 1));
  return shifted;
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

at::Tensor ChannelMixImpl::forward(const at::Tensor& x_BTC, State* state) {
  RECORD_USER_SCOPE("rwkv::channel_mix");
  const at::Tensor shifted = shift_with_state(x_BTC, state, state_xx_);
  const at::Tensor k_BTF = key(time_mix(x_BTC, shifted, time_mix_k)).relu().square();
  const at::Tensor r_BTC = receptance(time_mix(x_BTC, shifted, time_mix_r));
  return r_BTC.sigmoid() * value(k_BTF);
}

}  // namespace rwkv::model
