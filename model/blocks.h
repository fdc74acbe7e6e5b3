#pragma once

#include <torch/nn/modules/linear.h>
#include <torch/nn/pimpl.h>

#include <string>

#include "model/state.h"

namespace rwkv::model {

/// The rows one step earlier: shift(x)[:,t] = x[:,t-1], and at t = 0 the row `previous` ([B,C], the
/// last row of the text so far) or zeros when it is undefined. x: [B,T,C]; result: [B,T,C].
at::Tensor time_shift(const at::Tensor& x_BTC, const at::Tensor& previous_BC);

/// x * m + shifted * (1 - m), elementwise with m [1,1,C]: m = 1 takes the current token alone. m is
/// unbounded.
at::Tensor time_mix(const at::Tensor& x_BTC, const at::Tensor& shifted_BTC, const at::Tensor& m);

/// The shift of `x` that continues `state` (may be null), whose row `key` it replaces by the last
/// row of x.
at::Tensor shift_with_state(const at::Tensor& x_BTC, State* state, const std::string& key);

/// A linear layer without bias, as all of RWKV-4 are. weight: [out,in].
torch::nn::Linear linear(int64_t in, int64_t out);

/// Channel-mix of RWKV-2 to RWKV-4 (RWKV-LM `RWKV-v4neo/src/model.py`, RWKV_ChannelMix):
///   k = max(0, key mix(x, time_mix_k))^2
///   y = sigmoid(receptance mix(x, time_mix_r)) * (value k)
/// State row: NAME.xx [B,C].
class ChannelMixImpl : public torch::nn::Module {
 public:
  /// `name` is the module's full name, e.g. "blocks.0.ffn".
  ChannelMixImpl(std::string name, int64_t n_embd, int64_t dim_ffn);

  /// x: [B,T,C], the layer-normed input. Result: [B,T,C].
  at::Tensor forward(const at::Tensor& x_BTC, State* state);

  at::Tensor time_mix_k, time_mix_r;  // [1,1,C]
  torch::nn::Linear key, receptance, value;

 private:
  std::string state_xx_;
};
TORCH_MODULE(ChannelMix);

}  // namespace rwkv::model
