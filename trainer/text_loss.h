#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "model/language_model.h"

namespace rwkv::trainer {

/// Loss of a text, summed over the tokens that were predicted: all but the first.
struct TextLoss {
  int64_t tokens = 0;
  double nats = 0;
  /// By position in the window, from 0: how many tokens were predicted there, and their nats. Empty
  /// for a stream.
  std::vector<int64_t> tokens_at;
  std::vector<double> nats_at;
};

/// Called with the number of tokens predicted so far and in all.
using LossProgress = std::function<void(int64_t done, int64_t all)>;

/// Windows of ctx_len predicted tokens at stride ctx_len from the first token on, each from the
/// empty state, as in training; the last one may be shorter. ids: two or more, int64, each in
/// 0..vocab_size-1. Throws NotFiniteError when a loss is NaN or infinite.
TextLoss loss_by_windows(model::LanguageModel& model, std::span<const int64_t> ids, int64_t ctx_len,
                         const LossProgress& progress = {});

/// The whole text in one pass that carries the state along.
TextLoss loss_by_stream(model::LanguageModel& model, std::span<const int64_t> ids,
                        const LossProgress& progress = {});

}  // namespace rwkv::trainer
