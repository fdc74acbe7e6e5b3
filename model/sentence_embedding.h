#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <cstdint>
#include <filesystem>
#include <vector>

#include "data/base/named.h"
#include "model/language_model.h"

namespace rwkv::model {

/// Which rows of a block's state go into an embedding.
enum class EmbeddingRow : uint8_t {
  kAttX,  // the normed input of TimeMix at the last token [C]
  kWkv,   // aa / bb, the decayed weighted mean of the values so far [A]
  kFfnX,  // the normed input of ChannelMix [C]
};
inline constexpr std::array kEmbeddingRowNames{Named{EmbeddingRow::kAttX, "att_x"},
                                               Named{EmbeddingRow::kWkv, "wkv"},
                                               Named{EmbeddingRow::kFfnX, "ffn_x"}};

struct EmbeddingConfig {
  std::vector<EmbeddingRow> rows{EmbeddingRow::kAttX, EmbeddingRow::kWkv, EmbeddingRow::kFfnX};
  std::vector<int64_t> layers{};  // from 0; empty: all
};

/// The state of one sequence as a vector, float32 [D], the proposal of RWKV-LM's README: block by
/// block, in the order of config.rows; with all rows and dim_att = n_embd it is [L,3,C] in memory.
/// aa and bb alone hang on a running maximum and cannot be compared between texts, aa / bb can. A
/// state that has seen nothing gives zeros. A block with pre_ffn has the input of its ffnPre as
/// att_x, and zeros for wkv. For RWKV-4; throws UserError for other models and for layers that the
/// model lacks.
at::Tensor sentence_embedding(const State& state, const ModelConfig& model,
                              const EmbeddingConfig& config);

/// Mean and standard deviation of each channel over many texts, float32 [D] each. Normalising by
/// them, not by those of one text, makes channels comparable (RWKV-LM's README).
struct ChannelStatistics {
  at::Tensor mean;
  at::Tensor std;
};

/// vectors: float32 [N,D], N >= 1. Of N.
ChannelStatistics channel_statistics(const at::Tensor& vectors);
/// (vectors - mean) / std; channels without deviation become 0. Throws UserError when D differs.
at::Tensor normalised(const at::Tensor& vectors, const ChannelStatistics& statistics);

/// As a safetensors file with `mean` and `std`.
void save_statistics(const ChannelStatistics& statistics, const std::filesystem::path& file);
ChannelStatistics load_statistics(const std::filesystem::path& file);

}  // namespace rwkv::model
