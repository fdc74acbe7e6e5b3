#pragma once

#include <cstdint>

#include "model/language_model.h"

namespace rwkv::model {

/// Fills all parameters with RWKV-4's initial values (RWKV-LM `RWKV-v4neo/src/model.py`, RWKV_Init
/// and generate_init_weight): time vectors by formula, zero for the matrices that end a residual
/// branch, orthogonal matrices elsewhere, and the small uniform embedding (SmallInitEmb) of
/// `emb_init`.
///
/// emb_init: the embedding is uniform in +-emb_init. Repeatable: the same seed gives the same bits
/// on one machine.
void init_weights(LanguageModel& model, uint64_t seed, double emb_init);

}  // namespace rwkv::model
