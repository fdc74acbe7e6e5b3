#pragma once

#include <ATen/core/Tensor.h>

namespace rwkv::ops {

/// `rwkv::cross_entropy_rows_`: returns log(sum(exp(logits_n))) - logits_n[target_n] for every row,
/// in float32 (float64 for float64 logits). With `gradient`, logits_n becomes in place
///   weights_n (softmax(logits_n) - onehot(target_n))
/// plus l2wrap * max(logits_n) at the first largest logit (L2Wrap of RWKV-LM); otherwise the logits
/// stay as they are.
///
/// logits: (N,V), contiguous, V >= 1, float32, float64, bfloat16 or float16; targets: int64 (N),
/// each in 0..V-1 (checked on the CPU); weights: (N), of the result's type. Throws c10::Error where
/// these disagree.
at::Tensor cross_entropy_rows_(const at::Tensor& logits, const at::Tensor& targets,
                               const at::Tensor& weights, double l2wrap, bool gradient);

/// The checks that all devices share.
void check_cross_entropy_rows(const at::Tensor& logits, const at::Tensor& targets,
                              const at::Tensor& weights);

}  // namespace rwkv::ops
