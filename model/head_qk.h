#pragma once

#include <torch/nn/modules/linear.h>

#include "model/model_config.h"
#include "model/state.h"

namespace rwkv::model {

/// Head-QK (RWKV-LM README "token-shift and Head-QK", `RWKV-v4neo/src/model.py`): the model may
/// copy a token of its context straight into the logits.
///   c[t,s] = (head_q x_t) . (head_k x_s) / Dq    for s <= t, s = t included
///   sum: logits[t, ids[s]] += c[t,s] for every s <= t
///   max: each id of the context adds its largest c[t,s] alone (the first one among equals), to
///        which the gradient goes too
/// There is no softmax, and the divisor is Dq, not its root.
///
struct HeadQkInput {
  at::Tensor q_BTD, k_BSD;  // head_q x of the rows; head_k x of all rows up to the last of them
  at::Tensor ids_BS;
  HeadQkReduce reduce = HeadQkReduce::kSum;
};

/// What is added to logits[b,t,ids[b,t,s]].
struct HeadQkScores {
  at::Tensor c_BTS;
  at::Tensor ids_BTS;
  at::Tensor kept_BTS;  // bool, places that count; undefined where all do
};

/// The scores of the last T of S rows, zero where s comes after the row. They, and two tensors of
/// the logits' size for kMax, are all that is allocated.
HeadQkScores head_qk_scores(const HeadQkInput& in, int64_t vocab_size);

/// logits: [B,T,V]; x: output of ln_out, [B,T,C]; ids: [B,T]; head_q, head_k: C -> Dq. Returns the
/// new logits. State rows: head_qk.k [B,n,Dq], head_qk.ids [B,n]; they grow by T with every call.
at::Tensor add_head_qk(const at::Tensor& logits_BTV, const at::Tensor& x_BTC,
                       const at::Tensor& ids_BT, torch::nn::Linear& head_q,
                       torch::nn::Linear& head_k, HeadQkReduce reduce, State* state);

}  // namespace rwkv::model
