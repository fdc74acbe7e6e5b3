#pragma once

#include <ATen/core/Tensor.h>

#include "model/head_loss.h"

namespace rwkv::trainer {

/// L2Wrap: pulls the largest logit of every position towards zero, so that logits keep their scale.
struct L2Wrap {
  double factor = 1e-4;  // 0 turns it off
  /// The original (RWKV-LM v4neo to v6) does not multiply its term by the incoming gradient, so it
  /// changes its weight with gradient accumulation and loss scaling. Set to reproduce that.
  bool ignore_incoming_gradient = false;
};

/// Mean cross entropy in nats, with the L2Wrap term in its gradient (never in its value).
///
/// logits: [B,T,V] or [N,V], float32, float64, bfloat16 or float16 (the last two are summed in
/// float32, and so is the result); targets: int64 [B,T] or [N]. mask (optional): [B,T] or [N],
/// weights in 0..1; then the loss is sum(mask * ce) / sum(mask), and the plain mean when all
/// weights are 1; an all-zero mask gives loss and cross-entropy gradient zero. The gradient of
/// logits gains, at the first largest logit of each row,
///   factor / N * max(logits[n,:]),  N = number of rows.
/// Source: RWKV-LM `RWKV-v4neo/src/model.py` (L2Wrap, training_step).
at::Tensor cross_entropy(const at::Tensor& logits, const at::Tensor& targets, const L2Wrap& l2wrap,
                         const at::Tensor& mask = {});

/// The same from where the head begins, without ever holding all logits (model/head_loss.h).
///
/// The gradients are computed in here, for the gradient `expected_gradient` of the loss: the factor
/// that the loss is multiplied by before backward(). Another one costs a pass over them and, with
/// l2wrap.ignore_incoming_gradient, is an error.
at::Tensor head_cross_entropy(const model::HeadInput& head, const at::Tensor& targets,
                              const L2Wrap& l2wrap, const at::Tensor& mask,
                              double expected_gradient);

}  // namespace rwkv::trainer
