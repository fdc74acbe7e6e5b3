#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

#include "model/head_qk.h"
#include "model/model_config.h"

namespace rwkv::model {

class LanguageModel;

/// Where the head begins: logits = x weight^T, and what Head-QK adds to them.
struct HeadInput {
  at::Tensor x_BTC;      // output of ln_out
  at::Tensor weight_VC;  // head.weight
  std::optional<HeadQkInput> head_qk;
};

/// A model whose loss needs no logits. Training and validation want one.
class HeadModel {
 public:
  HeadModel() = default;
  HeadModel(const HeadModel&) = default;
  HeadModel& operator=(const HeadModel&) = default;
  HeadModel(HeadModel&&) = default;
  HeadModel& operator=(HeadModel&&) = default;
  virtual ~HeadModel() = default;

  /// What forward(ids) makes its logits of.
  virtual HeadInput forward_to_head(const at::Tensor& ids) = 0;
};

/// model.forward_to_head(ids); throws c10::Error where the model is no HeadModel.
HeadInput forward_to_head(LanguageModel& model, const at::Tensor& ids);

/// How the rows of the head add up to a loss.
struct HeadLossOptions {
  /// Weight of each row's cross entropy in the loss, [B,T], float32 (float64 for float64 x).
  at::Tensor weights_BT;
  double l2wrap = 0;  // added to the gradient: l2wrap * max(logits) at each row's largest logit
  /// The gradient of the loss that the backward pass is going to bring. Gradients are computed for
  /// it in the forward pass; the backward multiplies them only where another one comes.
  double expected_gradient = 1;
  /// L2Wrap's term is not multiplied by the gradient of the loss. That must be the expected one
  /// then (checked on the CPU).
  bool l2wrap_ignores_gradient = false;
};

/// sum(weights * cross entropy) of the head, as a scalar of the type of the weights, with gradients
/// for x, the weight and Head-QK's q and k.
///
/// Runs over chunks of rows: the logits of a chunk turn into their gradient in place and into the
/// gradients of x and of the weight at once, so logits [B,T,V] never exist. The chunks depend on
/// the shape alone. Gradients of 16-bit weights are summed over the chunks in float32.
/// targets: int64 [B,T], each in 0..V-1. Throws c10::Error where shapes or types disagree.
at::Tensor head_loss(const HeadInput& head, const at::Tensor& targets_BT,
                     const HeadLossOptions& options);

/// Cross entropy of every row, [B,T], without gradients.
at::Tensor head_cross_entropy(const HeadInput& head, const at::Tensor& targets_BT);

/// Rows of a chunk for N rows and V logits: some four million logits, but at least 512 rows, below
/// which reading the weight would cost more than the products; chunks of a batch are equally long.
int64_t head_chunk_rows(int64_t N, int64_t V);

}  // namespace rwkv::model
