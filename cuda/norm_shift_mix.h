#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <tuple>
#include <vector>

namespace rwkv::ops {

using OptionalTensor = std::optional<at::Tensor>;

// The operators `rwkv::norm_shift_mix` and `rwkv::norm_shift_mix_backward`:
//
//   sum = x + delta                                  (x where delta is not given)
//   z   = layer_norm(sum, weight, bias, eps)
//   shifted_t = z_{t-1}; at t = 0 `previous`, or zero; zero where reset_t
//   mixed_i = z mix_i + shifted (1 - mix_i)
//
// x, delta (B,T,C): float32, float64, bfloat16, float16; weight, bias, mix_i (C elements): of the
// same type, or float32 with the 16-bit types; previous (B,C) of the type of x; reset (B,T) bool;
// one to three mixes. Arithmetic is float32 (float64 for float64).
// One pass each way: the forward reads x and delta and writes sum and the mixes; z and its shift
// exist one row at a time. The backward writes the mixes once more: they are the inputs of the
// products whose weights' gradients come next, and need not be kept from the forward.

/// sum (empty where delta is not given), mean and rstd (B,T) in the type of the arithmetic, last
/// (B,C) = z at the last token, mixed (B,T,C) each.
using NormShiftMixTensors =
    std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, std::vector<at::Tensor>>;
/// Gradients of x (and delta), weight, bias, previous (empty where it is not given) and the mixes;
/// and the mixed rows.
using NormShiftMixGradients = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor,
                                         std::vector<at::Tensor>, std::vector<at::Tensor>>;

struct NormShiftMixArguments {
  const at::Tensor& x;
  const OptionalTensor& delta;
  const at::Tensor& weight;
  const at::Tensor& bias;
  const OptionalTensor& previous;
  const OptionalTensor& reset;
  at::TensorList mix;
};

/// Checks dimensions, sizes, types and devices; T >= 1.
void check_norm_shift_mix(const NormShiftMixArguments& in);
/// Checks what the backward gets beside that: x is the sum there.
void check_norm_shift_mix_backward(const NormShiftMixArguments& in, const at::Tensor& mean,
                                   const at::Tensor& rstd, at::TensorList g_mixed,
                                   const OptionalTensor& g_sum, const OptionalTensor& g_last);

NormShiftMixTensors call_norm_shift_mix(const NormShiftMixArguments& in, double eps);
NormShiftMixGradients call_norm_shift_mix_backward(const NormShiftMixArguments& in,
                                                   const at::Tensor& mean, const at::Tensor& rstd,
                                                   at::TensorList g_mixed,
                                                   const OptionalTensor& g_sum,
                                                   const OptionalTensor& g_last);

// The same composed of LibTorch's operators, in many passes: the kernels of devices that have none
// of ours, and the slow twins in the tests.
NormShiftMixTensors norm_shift_mix_composed(const at::Tensor& x, const OptionalTensor& delta,
                                            const at::Tensor& weight, const at::Tensor& bias,
                                            double eps, const OptionalTensor& previous,
                                            const OptionalTensor& reset, at::TensorList mix);
NormShiftMixGradients norm_shift_mix_backward_composed(
    const at::Tensor& sum, const at::Tensor& mean, const at::Tensor& rstd, const at::Tensor& weight,
    const at::Tensor& bias, const OptionalTensor& previous, const OptionalTensor& reset,
    at::TensorList mix, at::TensorList g_mixed, const OptionalTensor& g_sum,
    const OptionalTensor& g_last);

}  // namespace rwkv::ops
