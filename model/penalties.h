#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <cstdint>
#include <map>
#include <string_view>

#include "data/base/named.h"

namespace rwkv::model {

/// How much one token counts for the frequency penalty.
enum class PenaltyWeight : uint8_t {
  /// 0 for a token whose text is a part of " \t0123456789", else 1: numbers may repeat (the `rwkv`
  /// package).
  kNotDigits,
  /// 1 for every token (ChatRWKV `v2/chat.py`).
  kEvery,
  /// 0.3 for ids below 127, else 1 (ChatRWKV `music/run.py`, for its MIDI models).
  kMusic,
};

inline constexpr std::array kPenaltyWeightNames{Named{PenaltyWeight::kNotDigits, "not_digits"},
                                                Named{PenaltyWeight::kEvery, "every"},
                                                Named{PenaltyWeight::kMusic, "music"}};

double penalty_weight(PenaltyWeight rule, int64_t id, std::string_view text);

/// Penalties for tokens that were written before. They change logits before the sampler sees them.
struct PenaltyConfig {
  double presence_penalty = 0;    // taken off once, for ever
  double frequency_penalty = 0;   // taken off for each time
  double penalty_decay = 0.996;   // 0..1: what is left of each time a token later
  double repetition_penalty = 1;  // > 0: logit / r where above 0, else * r (Keskar et al. 2019)
  PenaltyWeight penalty_weight = PenaltyWeight::kNotDigits;
};

/// Throws UserError when a value is out of range or not a number; see check(SamplingConfig).
void check(const PenaltyConfig& config, const char* prefix);

/// Token -> how often it was written, faded. Empty at the start of a reply. A token whose number is
/// 0 still pays presence_penalty.
using Occurrence = std::map<int64_t, double>;

/// Applies the penalties to `logits` (float32 or float64 [V], CPU) in place: repetition_penalty on
/// the model's value, then -= presence_penalty + occurrence * frequency_penalty (the `rwkv`
/// package's generate()).
void apply_penalties(at::Tensor& logits, const Occurrence& occurrence, const PenaltyConfig& config);

/// Records that token `id` was written: all numbers fade, then that of `id` grows by `weight`.
void count_token(Occurrence& occurrence, int64_t id, double weight, const PenaltyConfig& config);

}  // namespace rwkv::model
