#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "cuda/ops.h"

namespace rwkv::ops {

// Operators joined with the matrix products that read their results, with gradients. What only
// those products need is not kept from the forward to the backward, but computed again there in a
// pass that is made anyway. Per token and layer of RWKV-4 that leaves 12 C values: the sums (2 C),
// k, v, r and the checkpoints of WKV, h (4 C), r and the value of the channel-mix.
// Weights are (out, in). There are no second derivatives. Throw c10::Error where shapes, types or
// devices disagree.

/// One product of a mix of the current and the previous token.
struct MixedLinear {
  at::Tensor mix;     // C elements
  at::Tensor weight;  // (out, C)
};

struct LayerNormParameters {
  at::Tensor weight, bias;  // (C)
  double eps = 1e-5;
};

struct NormMixLinearResult {
  at::Tensor sum;               // (B,T,C): x + delta
  at::Tensor last;              // (B,C): z at the last token
  std::vector<at::Tensor> out;  // (B,T,out) each
};

/// z = layer_norm(x + delta); out_i = weight_i (z mix_i + shift(z) (1 - mix_i)), with
/// shift(z)_t = z_{t-1} and at t = 0 `previous`.
///
/// x: (B,T,C), T >= 1; delta (same shape), previous (B,C) and reset ((B,T) bool: the token starts a
/// document, its shift is zero) may be undefined. One to three products. See
/// cuda/norm_shift_mix.h for types.
NormMixLinearResult norm_mix_linear(const at::Tensor& x, const at::Tensor& delta,
                                    const LayerNormParameters& norm, const at::Tensor& previous,
                                    const at::Tensor& reset,
                                    const std::vector<MixedLinear>& products);

struct GatedWkvResult {
  at::Tensor out;   // (B,T,out)
  Wkv4State state;  // after the last token
};

/// weight (sigmoid(r) wkv4(time_decay, time_first, k, v)). r: like k, (B,T,A); weight: (out, A);
/// all else, the state and the gradients that reach it included, as in wkv4 of cuda/ops.h.
GatedWkvResult gated_wkv_linear(const at::Tensor& time_decay, const at::Tensor& time_first,
                                const at::Tensor& k, const at::Tensor& v, const at::Tensor& r,
                                const at::Tensor& weight, const Wkv4State& state = {},
                                const at::Tensor& reset = {});

/// weight max(k, 0)^2. k: (..., F); weight: (out, F).
at::Tensor relu_square_linear(const at::Tensor& k, const at::Tensor& weight);

/// x + sigmoid(r) v, elementwise.
at::Tensor gate_residual(const at::Tensor& x, const at::Tensor& r, const at::Tensor& v);

}  // namespace rwkv::ops
