#pragma once

#include <cstdint>

#include "model/language_model.h"

namespace rwkv::trainer {

/// N_mm: the weights that enter a matrix product with every token, i.e. all matrices but the
/// embedding, which is only looked up. RWKV-4: L (4 C A + 2 C F + C^2) + V C, with A = dim_att and
/// F = dim_ffn, and 2 C D more with Head-QK of width D.
int64_t matrix_product_weights(const model::LanguageModel& model);

/// Floating-point operations of all matrix products that training on one token needs: 6 N_mm (2
/// forward, 4 backward; a forward that is repeated to save memory does not count), and with Head-QK
/// 6 ctx_len D for the products of queries and keys, which are computed whole. Everything that is
/// no matrix product is left out: in WKV about 85 operations a channel.
double model_flops_per_token(const model::LanguageModel& model, int64_t ctx_len);

}  // namespace rwkv::trainer
