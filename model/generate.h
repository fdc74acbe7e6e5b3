#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "model/language_model.h"
#include "model/sampling.h"

namespace rwkv::model {

struct GenerateOptions {
  SamplingConfig sampling;
  int64_t tokens = 200;  // how many to draw
  uint64_t seed = 42;
};

/// Feeds `ids` to the model in pieces of at most `chunk` tokens and returns the logits after the
/// last one, [V], on the CPU in float32 (float64 for a float64 model). The result does not depend
/// on `chunk`; it bounds the memory of a long prompt. ids: one or more.
at::Tensor prefill(LanguageModel& model, std::span<const int64_t> ids, State& state,
                   int64_t chunk = 256);

/// Draws tokens one by one after `prompt` (one or more ids) and hands each to `on_token`, which
/// returns false to stop early. `state` is what came before the prompt and ends after the last
/// token that was fed. Returns the drawn ids.
std::vector<int64_t> generate(LanguageModel& model, std::span<const int64_t> prompt,
                              const GenerateOptions& options, State& state,
                              const std::function<bool(int64_t)>& on_token);

}  // namespace rwkv::model
