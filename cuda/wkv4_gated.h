#pragma once

#include <ATen/core/Tensor.h>

#include <tuple>

#include "cuda/wkv4.h"

namespace rwkv::ops {

// `rwkv::wkv4_gated`: out = sigmoid(r) wkv4(time_decay, time_first, k, v), in the pass of WKV-4
// itself, so that its output without the gate is never stored. r is like k; all else as in
// cuda/ops.h. `rwkv::wkv4_gated_backward` also returns out, computed once more: the product whose
// weight's gradient comes next reads it, and it need not be kept from the forward.

/// out, a, b, p.
using Wkv4GatedForward = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor>;
/// out, a, b, p, checkpoints.
using Wkv4GatedTrain = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor>;
/// Gradients of time_decay, time_first, k, v, r, a, b, p; and out.
using Wkv4GatedBackward = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor,
                                     at::Tensor, at::Tensor, at::Tensor, at::Tensor>;

Wkv4GatedForward call_wkv4_gated(const at::Tensor& time_decay, const at::Tensor& time_first,
                                 const at::Tensor& k, const at::Tensor& v, const at::Tensor& r,
                                 const OptionalTensor& reset, const OptionalTensor& a,
                                 const OptionalTensor& b, const OptionalTensor& p);
Wkv4GatedTrain call_wkv4_gated_train(const at::Tensor& time_decay, const at::Tensor& time_first,
                                     const at::Tensor& k, const at::Tensor& v, const at::Tensor& r,
                                     const OptionalTensor& reset, const OptionalTensor& a,
                                     const OptionalTensor& b, const OptionalTensor& p);
/// g, ga, gb: gradients of out, a and b.
Wkv4GatedBackward call_wkv4_gated_backward(const at::Tensor& time_decay,
                                           const at::Tensor& time_first, const at::Tensor& k,
                                           const at::Tensor& v, const at::Tensor& r,
                                           const OptionalTensor& reset,
                                           const at::Tensor& checkpoints, const OptionalTensor& g,
                                           const OptionalTensor& ga, const OptionalTensor& gb);

}  // namespace rwkv::ops
