#pragma once

#include <torch/nn/modules/linear.h>
#include <torch/nn/modules/normalization.h>
#include <torch/nn/pimpl.h>

#include <string>
#include <vector>

#include "cuda/layers.h"
#include "model/state.h"

namespace rwkv::model {

/// What the next operator adds before it reads: the residual stream is x + delta. delta is
/// undefined where there is nothing to add.
struct Residual {
  at::Tensor x_BTC, delta_BTC;
};
at::Tensor sum_of(const Residual& residual);

/// z = norm(x + delta), and products of mixes of z with its shift by one token. Continues `state`
/// (may be null), whose row `key` it replaces by the last row of z.
ops::NormMixLinearResult norm_mix_linear(const Residual& residual, torch::nn::LayerNorm& norm,
                                         State* state, const std::string& key,
                                         const std::vector<ops::MixedLinear>& products);

torch::nn::LayerNorm layer_norm(int64_t n_embd);

/// A linear layer without bias, as all of RWKV-4 are. weight: [out,in].
torch::nn::Linear linear(int64_t in, int64_t out);

/// Channel-mix of RWKV-2 to RWKV-4 (RWKV-LM `RWKV-v4neo/src/model.py`, RWKV_ChannelMix):
///   z = norm(x)
///   k = max(0, key mix(z, time_mix_k))^2
///   y = x + sigmoid(receptance mix(z, time_mix_r)) * (value k)
/// with mix(z, m)_t = z_t m + z_{t-1} (1 - m), elementwise; m is unbounded.
/// State row: NAME.xx [B,C].
class ChannelMixImpl : public torch::nn::Module {
 public:
  /// `name` is the module's full name, e.g. "blocks.0.ffn".
  ChannelMixImpl(std::string name, int64_t n_embd, int64_t dim_ffn);

  /// residual: [B,T,C], the residual stream before `norm`, which belongs to the block. Result: the
  /// stream after this layer, [B,T,C].
  at::Tensor forward(const Residual& residual, torch::nn::LayerNorm& norm, State* state);

  at::Tensor time_mix_k, time_mix_r;  // [1,1,C]
  torch::nn::Linear key, receptance, value;

 private:
  std::string state_xx_;
};
TORCH_MODULE(ChannelMix);

}  // namespace rwkv::model
