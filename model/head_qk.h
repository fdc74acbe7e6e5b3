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
/// logits: [B,T,V]; x: output of ln_out, [B,T,C]; ids: [B,T]; head_q, head_k: C -> Dq. Returns the
/// new logits. State rows: head_qk.k [B,n,Dq], head_qk.ids [B,n]; they grow by T with every call.
at::Tensor add_head_qk(const at::Tensor& logits_BTV, const at::Tensor& x_BTC,
                       const at::Tensor& ids_BT, torch::nn::Linear& head_q,
                       torch::nn::Linear& head_k, HeadQkReduce reduce, State* state);

}  // namespace rwkv::model
