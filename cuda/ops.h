#pragma once

#include <ATen/core/Tensor.h>

#include <tuple>

namespace rwkv::ops {

/// WKV sums of the tokens seen so far: numerator a e^p, denominator b e^p. Each (B, C), float32
/// (float64 with float64 keys). The scale is free: (a e^-c, b e^-c, p + c) is the same state, so
/// compare states by a/b and p + ln b. All three tensors are undefined for "nothing seen yet".
struct Wkv4State {
  at::Tensor a, b, p;
};

/// The WKV operator of RWKV-4 with gradients; formulas in cuda/wkv4_step.h. Calls `rwkv::wkv4`
/// through the dispatcher.
///
/// time_decay, time_first (C): the raw parameters (the decay is -exp(time_decay)); k, v (B, T, C).
/// Of k and v the type is float32, bfloat16, float16 or float64; the parameters have the same type,
/// or float32 with the 16-bit types. All arithmetic is float32 (float64 for float64). Strided
/// inputs are copied. Runs where the tensors are: on the CPU, or on a GPU in a build with CUDA.
/// reset (B, T), bool, optional: token t starts a new document, nothing of the tokens before it is
/// seen.
///
/// Returns y (B, T, C) in the type of k and the state after the last token: a, b, p (B, C). An
/// empty state is a = b = 0, p = -1e38; p = -1e30 of other programs means the same.
///
/// Gradients reach time_decay, time_first, k, v and the given state (so losses of later segments
/// reach earlier ones). A loss may use the returned state only through a e^p and b e^p: p counts as
/// a constant scale and carries no gradient. There are no second derivatives.
///
/// Throws c10::Error, naming both values, where shapes, types or devices disagree.
std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> wkv4(
    const at::Tensor& time_decay, const at::Tensor& time_first, const at::Tensor& k,
    const at::Tensor& v, const Wkv4State& state = {}, const at::Tensor& reset = {});

}  // namespace rwkv::ops
