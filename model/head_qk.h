#pragma once

#include <torch/nn/modules/linear.h>

#include "model/state.h"

namespace rwkv::model {

/// Head-QK (RWKV-LM README "token-shift and Head-QK", `RWKV-v4neo/src/model.py`): the model may
/// copy a token of its context straight into the logits.
///   c[t,s] = (head_q x_t) . (head_k x_s) / Dq    for s <= t, else 0   (divisor Dq, no softmax, s =
///   t included) logits[t, ids[s]] += c[t,s]
///
/// logits: [B,T,V]; x: output of ln_out, [B,T,C]; ids: [B,T]; head_q, head_k: C -> Dq. Returns the
/// new logits. State rows: head_qk.k [B,n,Dq], head_qk.ids [B,n]; they grow by T with every call.
at::Tensor add_head_qk(const at::Tensor& logits_BTV, const at::Tensor& x_BTC,
                       const at::Tensor& ids_BT, torch::nn::Linear& head_q,
                       torch::nn::Linear& head_k, State* state);

}  // namespace rwkv::model
