#pragma once

#include <torch/nn/module.h>

#include <cstdint>
#include <memory>

#include "model/model_config.h"
#include "model/state.h"

namespace rwkv::model {

/// Which positions of a sequence the head is computed for.
enum class Positions { kAll, kLast };

/// How a forward pass in training differs from one in use. Ignored in eval() and where gradients
/// are switched off.
struct TrainingOptions {
  bool grad_cp = false;       // keep only the input of each block, run it again in the backward
  double dropout = 0;         // see model/dropout.h
  uint64_t dropout_seed = 0;  // another one for each micro-batch
};

/// A causal language model that runs in parallel over a sequence and hands on a state.
class LanguageModel : public torch::nn::Module {
 public:
  /// Logits of the next token.
  ///
  /// ids: int64 [B,T], each in 0..vocab_size-1, T >= 1. Result: [B,T,V], or [B,1,V] for
  /// Positions::kLast. With `state`, the sequence continues what the state has seen, and the state
  /// is replaced by the one after the last token: feeding a ++ b at once or in pieces gives the
  /// same logits. T = 1 is the recurrent (RNN) mode. Throws c10::Error on a wrong shape, dtype or
  /// id.
  virtual at::Tensor forward(const at::Tensor& ids, State* state, Positions positions) = 0;
  at::Tensor forward(const at::Tensor& ids) { return forward(ids, nullptr, Positions::kAll); }
  at::Tensor forward(const at::Tensor& ids, State& state) {
    return forward(ids, &state, Positions::kAll);
  }

  [[nodiscard]] virtual const ModelConfig& config() const = 0;

  TrainingOptions training_options;
};

}  // namespace rwkv::model
