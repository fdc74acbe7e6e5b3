#include "model/rwkv4.h"

#include <ATen/record_function.h>
#include <torch/torch.h>

#include "cuda/layers.h"
#include "model/grad_checkpoint.h"
#include "model/head_qk.h"

namespace rwkv::model {

TimeMixImpl::TimeMixImpl(const std::string& name, int64_t n_embd, int64_t dim_att)
    : time_decay(register_parameter("time_decay", at::zeros({dim_att}))),
      time_first(register_parameter("time_first", at::zeros({dim_att}))),
      time_mix_k(register_parameter("time_mix_k", at::zeros({1, 1, n_embd}))),
      time_mix_v(register_parameter("time_mix_v", at::zeros({1, 1, n_embd}))),
      time_mix_r(register_parameter("time_mix_r", at::zeros({1, 1, n_embd}))),
      key(register_module("key", linear(n_embd, dim_att))),
      value(register_module("value", linear(n_embd, dim_att))),
      receptance(register_module("receptance", linear(n_embd, dim_att))),
      output(register_module("output", linear(dim_att, n_embd))),
      state_xx_(name + ".xx"),
      state_aa_(name + ".aa"),
      state_bb_(name + ".bb"),
      state_pp_(name + ".pp") {}

Residual TimeMixImpl::forward(const Residual& residual, torch::nn::LayerNorm& norm, State* state) {
  RECORD_USER_SCOPE("rwkv::time_mix");
  const auto [x_BTC, last_BC, products] = norm_mix_linear(
      residual, norm, state, state_xx_,
      {{time_mix_k, key->weight}, {time_mix_v, value->weight}, {time_mix_r, receptance->weight}});
  const at::Tensor& k_BTA = products[0];
  const at::Tensor& v_BTA = products[1];
  const at::Tensor& r_BTA = products[2];

  ops::Wkv4State wkv_state;
  if (state != nullptr) {
    wkv_state = {state->get(state_aa_), state->get(state_bb_), state->get(state_pp_)};
  }
  const auto [y_BTC, after] =
      ops::gated_wkv_linear(time_decay, time_first, k_BTA, v_BTA, r_BTA, output->weight, wkv_state);
  if (state != nullptr) {
    state->set(state_aa_, after.a);
    state->set(state_bb_, after.b);
    state->set(state_pp_, after.p);
  }
  return {x_BTC, y_BTC};
}

BlockImpl::BlockImpl(const ModelConfig& config, int64_t layer) : layer_(layer) {
  const std::string name = "blocks." + std::to_string(layer);
  const int64_t C = config.n_embd;
  if (layer == 0) ln0_ = register_module("ln0", layer_norm(C));
  ln1_ = register_module("ln1", layer_norm(C));
  ln2_ = register_module("ln2", layer_norm(C));
  if (layer == 0 && config.pre_ffn) {
    ffn_pre_ = register_module("ffnPre", ChannelMix(name + ".ffnPre", C, config.ffn_size()));
  } else {
    att_ = register_module("att", TimeMix(name + ".att", C, config.att_size()));
  }
  ffn_ = register_module("ffn", ChannelMix(name + ".ffn", C, config.ffn_size()));
}

at::Tensor BlockImpl::forward(at::Tensor x_BTC, State* state, const Dropout& dropout) {
  RECORD_USER_SCOPE("rwkv::norm_and_residual");
  if (!ln0_.is_empty()) x_BTC = ln0_(x_BTC);
  Residual residual{x_BTC, {}};
  if (att_.is_empty()) {
    residual.x_BTC = ffn_pre_(residual, ln1_, state);
  } else {
    residual = att_(residual, ln1_, state);
  }
  if (dropout.active()) residual = {dropout(sum_of(residual), 1 + 2 * layer_), {}};
  return dropout(ffn_(residual, ln2_, state), 2 + 2 * layer_);
}

Rwkv4::Rwkv4(const ModelConfig& config) : config_(config) {
  TORCH_CHECK(config.n_layer > 0 && config.n_embd > 0 && config.vocab_size > 0, "Rwkv4: n_layer ",
              config.n_layer, ", n_embd ", config.n_embd, ", vocab_size ", config.vocab_size,
              ": all must be positive");
  const int64_t V = config.vocab_size;
  const int64_t C = config.n_embd;
  emb_ = register_module("emb", torch::nn::Embedding(V, C));
  blocks_ = register_module("blocks", torch::nn::ModuleList());
  for (int64_t layer = 0; layer < config.n_layer; ++layer) blocks_->push_back(Block(config, layer));
  ln_out_ = register_module("ln_out", layer_norm(C));
  head_ = register_module("head", linear(C, V));
  if (config.head_qk > 0) {
    head_q_ = register_module("head_q", linear(C, config.head_qk));
    head_k_ = register_module("head_k", linear(C, config.head_qk));
  }
}

at::Tensor Rwkv4::run_block(BlockImpl& block, const at::Tensor& x_BTC, State* state,
                            const Dropout& dropout) const {
  const bool recompute = training_options.grad_cp && is_training() && state == nullptr;
  if (!recompute) return block.forward(x_BTC, state, dropout);
  return grad_checkpoint(
      [&block, dropout](const at::Tensor& x) { return block.forward(x, nullptr, dropout); }, x_BTC);
}

at::Tensor Rwkv4::embed(const at::Tensor& ids_BT) {
  RECORD_USER_SCOPE("rwkv::embedding");
  TORCH_CHECK(ids_BT.dim() == 2 && ids_BT.size(1) > 0, "ids must be [B,T] with T >= 1, got ",
              ids_BT.sizes());
  TORCH_CHECK(ids_BT.scalar_type() == at::kLong, "ids must be int64, got ", ids_BT.scalar_type());
  if (ids_BT.numel() > 0) {
    const auto [low, high] = at::aminmax(ids_BT);
    const at::Tensor ends = at::stack({low, high}).cpu();  // one wait for a GPU, not two
    const auto* const end = ends.const_data_ptr<int64_t>();
    TORCH_CHECK_INDEX(end[0] >= 0 && end[1] < config_.vocab_size, "ids must lie in 0..",
                      config_.vocab_size - 1, ", got ", end[0], "..", end[1]);
  }
  return emb_(ids_BT);
}

at::Tensor Rwkv4::run_blocks(const at::Tensor& ids_BT, State* state) {
  const bool training = is_training() && at::GradMode::is_enabled();
  const Dropout dropout =
      training ? Dropout(training_options.dropout, training_options.dropout_seed) : Dropout();
  at::Tensor x_BTC = dropout(embed(ids_BT), 0);
  for (const auto& block : *blocks_) {
    x_BTC = run_block(*block->as<BlockImpl>(), x_BTC, state, dropout);
  }
  return x_BTC;
}

at::Tensor Rwkv4::forward(const at::Tensor& ids_BT, State* state, Positions positions) {
  at::Tensor x_BTC = run_blocks(ids_BT, state);
  RECORD_USER_SCOPE("rwkv::head");
  x_BTC = ln_out_(x_BTC);
  const bool last_only = positions == Positions::kLast;
  const int64_t T = ids_BT.size(1);
  if (head_q_.is_empty() && last_only) x_BTC = x_BTC.slice(1, T - 1, T);
  at::Tensor logits_BTV = head_(x_BTC);
  if (!head_q_.is_empty()) {
    logits_BTV =
        add_head_qk(logits_BTV, x_BTC, ids_BT, head_q_, head_k_, config_.head_qk_reduce, state);
    if (last_only) logits_BTV = logits_BTV.slice(1, T - 1, T);
  }
  return logits_BTV;
}

HeadInput Rwkv4::forward_to_head(const at::Tensor& ids_BT) {
  const at::Tensor x_BTC = run_blocks(ids_BT, nullptr);
  RECORD_USER_SCOPE("rwkv::head");
  HeadInput head{ln_out_(x_BTC), head_->weight, {}};
  if (!head_q_.is_empty()) {
    head.head_qk = {head_q_(head.x_BTC), head_k_(head.x_BTC), ids_BT, config_.head_qk_reduce};
  }
  return head;
}

}  // namespace rwkv::model
