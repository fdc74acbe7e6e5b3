#pragma once

#include <torch/nn/modules/container/modulelist.h>
#include <torch/nn/modules/embedding.h>
#include <torch/nn/modules/linear.h>
#include <torch/nn/modules/normalization.h>

#include <string>

#include "model/blocks.h"
#include "model/dropout.h"
#include "model/head_loss.h"
#include "model/language_model.h"

namespace rwkv::model {

/// Time-mix of RWKV-4 (arXiv:2305.13048, eq. 11-15; RWKV-LM `RWKV-v4neo/src/model.py`,
/// RWKV_TimeMix):
///   z = norm(x)
///   k, v, r = projections of mix(z, time_mix_k), mix(z, time_mix_v), mix(z, time_mix_r)
///   y = x + output (sigmoid(r) * wkv(time_decay, time_first, k, v))
/// State rows: NAME.xx [B,C], NAME.aa, NAME.bb, NAME.pp [B,A].
class TimeMixImpl : public torch::nn::Module {
 public:
  /// `name` is the module's full name, e.g. "blocks.0.att".
  TimeMixImpl(const std::string& name, int64_t n_embd, int64_t dim_att);

  /// residual: [B,T,C], the residual stream before `norm`, which belongs to the block. The sum of
  /// the result is the stream after this layer.
  Residual forward(const Residual& residual, torch::nn::LayerNorm& norm, State* state);

  at::Tensor time_decay, time_first;  // [A], raw: the decay per step is exp(-exp(time_decay))
  at::Tensor time_mix_k, time_mix_v, time_mix_r;  // [1,1,C]
  torch::nn::Linear key, value, receptance, output;

 private:
  std::string state_xx_, state_aa_, state_bb_, state_pp_;
};
TORCH_MODULE(TimeMix);

/// One residual block. Block 0 also owns ln0, and with pre_ffn a second channel-mix `ffnPre` in
/// place of `att`.
class BlockImpl : public torch::nn::Module {
 public:
  BlockImpl(const ModelConfig& config, int64_t layer);

  /// x: [B,T,C], the residual stream (for block 0 the raw embedding). Result: [B,T,C].
  at::Tensor forward(at::Tensor x_BTC, State* state, const Dropout& dropout = {});

 private:
  int64_t layer_;
  torch::nn::LayerNorm ln0_{nullptr}, ln1_{nullptr}, ln2_{nullptr};
  TimeMix att_{nullptr};
  ChannelMix ffn_pre_{nullptr}, ffn_{nullptr};
};
TORCH_MODULE(Block);

/// RWKV-4: embedding, blocks, ln_out, head; parameter names and shapes are those of the released
/// files. Constructed with unspecified values: call init_weights() or load weights.
class Rwkv4 : public LanguageModel, public HeadModel {
 public:
  explicit Rwkv4(const ModelConfig& config);

  at::Tensor forward(const at::Tensor& ids_BT, State* state, Positions positions) override;
  using LanguageModel::forward;
  HeadInput forward_to_head(const at::Tensor& ids) override;
  [[nodiscard]] const ModelConfig& config() const override { return config_; }

 private:
  /// Checks the ids [B,T] and looks their rows up: [B,T,C].
  at::Tensor embed(const at::Tensor& ids_BT);
  /// From the ids to the residual stream after the last block, [B,T,C].
  at::Tensor run_blocks(const at::Tensor& ids_BT, State* state);
  at::Tensor run_block(BlockImpl& block, const at::Tensor& x_BTC, State* state,
                       const Dropout& dropout) const;

  ModelConfig config_;
  torch::nn::Embedding emb_{nullptr};
  torch::nn::ModuleList blocks_{nullptr};
  torch::nn::LayerNorm ln_out_{nullptr};
  torch::nn::Linear head_{nullptr};
  torch::nn::Linear head_q_{nullptr}, head_k_{nullptr};  // Head-QK only
};

}  // namespace rwkv::model
