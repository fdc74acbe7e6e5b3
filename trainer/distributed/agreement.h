#pragma once

#include <string>
#include <vector>

#include "model/language_model.h"
#include "trainer/config.h"
#include "trainer/distributed/rank_group.h"

// What all ranks must have in common, and what is said where they have not.
namespace rwkv::trainer {

/// Throws UserError, naming the world sizes that would do, unless `world_size` divides the windows
/// of every step: train.micro_bsz * train.grad_accum, and the real_bsz of each segment.
void check_world_size(const RunConfig& config, int64_t world_size);

/// Throws UserError on every rank, with key, values and ranks, where configurations differ.
void agree_on_config(RankGroup& group, const RunConfig& config);

/// Throws UserError on every rank where `text` differs; `what` and `mend` go into the message.
void agree_on(RankGroup& group, const std::string& what, const std::string& text,
              const std::string& mend);

/// CRC-32C over the bytes of all parameters, by name, as text.
std::string weights_hash(model::LanguageModel& model);

/// Throws PeerLostError on every rank when the weights of some have drifted from the others': each
/// rank has computed the same, so one of them has miscomputed or its memory is faulty.
void check_for_drift(RankGroup& group, model::LanguageModel& model, int64_t step);

/// Ranks whose text is not the one that most ranks have; of two equally frequent ones, the one of
/// the lowest rank counts as right.
std::vector<int64_t> ranks_that_differ(const std::vector<std::string>& texts);

}  // namespace rwkv::trainer
