#pragma once

#include <cstdint>

#include "model/penalties.h"
#include "model/sampling.h"

namespace rwkv::model {

/// Limits of a setting, both included, and what --help says of it.
struct FieldInfo {
  double low;
  double high;
  const char* help;
};

/// Calls visitor(name, value, info) for every number of `config`: the one list behind the options
/// of the command line, the settings of a chat and the checks of both. Self: SamplingConfig, const
/// or not.
template <typename Self, typename Visitor>
void visit_sampling(Self& config, Visitor&& visitor) {
  visitor("temperature", config.temperature,
          FieldInfo{0, 1e9, "Above 1 more varied, below 1 more likely, 0 always the likeliest"});
  visitor("top_p", config.top_p,
          FieldInfo{0, 1, "Keep the likeliest tokens of this total probability"});
  visitor("top_k", config.top_k, FieldInfo{0, 1e9, "Keep that many of the likeliest; 0: all"});
  visitor("top_p_x", config.top_p_x,
          FieldInfo{0, 1, "Keep also what is at least that likely, in spite of top_p; 1: off"});
  visitor("top_a", config.top_a,
          FieldInfo{0, 1, "Drop what is less likely than top_a * largest^top_a_power; 0: off"});
  visitor("top_a_power", config.top_a_power, FieldInfo{1e-9, 1e9, "See top_a"});
  visitor("typical_mass", config.typical_mass,
          FieldInfo{0, 1, "Keep the most typical tokens of this total probability; 1: off"});
}

/// The same for PenaltyConfig.
template <typename Self, typename Visitor>
void visit_penalties(Self& config, Visitor&& visitor) {
  visitor("presence_penalty", config.presence_penalty,
          FieldInfo{-1e9, 1e9, "Taken off the logit of every token written before"});
  visitor("frequency_penalty", config.frequency_penalty,
          FieldInfo{-1e9, 1e9, "Taken off once for each time that it was written"});
  visitor("penalty_decay", config.penalty_decay,
          FieldInfo{0, 1, "How much of a time counted is left a token later"});
  visitor("repetition_penalty", config.repetition_penalty,
          FieldInfo{1e-9, 1e9, "Divides logits above 0 of tokens written before; 1: off"});
}

}  // namespace rwkv::model
