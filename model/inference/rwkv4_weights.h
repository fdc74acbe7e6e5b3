#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "model/formats/tensor_file.h"
#include "model/inference/strategy.h"
#include "model/inference/weight_matrix.h"
#include "model/model_config.h"
#include "model/weights.h"

// The weights of RWKV-4 as inference holds them: vectors in float32, matrices in the form of their
// slot. Names are those of the released files (models: see model/rwkv4.h).

namespace rwkv::model {

struct NormWeights {
  at::Tensor weight, bias;  // [C]
};

struct TimeMixWeights {
  std::string name;                               // "blocks.0.att"
  at::Tensor time_decay, time_first;              // [A]
  at::Tensor decay;                               // [A]: -exp(time_decay)
  at::Tensor time_mix_k, time_mix_v, time_mix_r;  // [C]
  std::unique_ptr<WeightMatrix> key, value, receptance, output;
};

struct ChannelMixWeights {
  std::string name;                   // "blocks.0.ffn", "blocks.0.ffnPre"
  at::Tensor time_mix_k, time_mix_r;  // [C]
  std::unique_ptr<WeightMatrix> key, receptance, value;
};

struct BlockWeights {
  NormWeights ln1, ln2;
  std::optional<TimeMixWeights> att;  // absent in block 0 with pre_ffn
  std::optional<ChannelMixWeights> ffn_pre;
  ChannelMixWeights ffn;
};

/// Rows of the embedding: in memory, or looked up in the mapped file when some layers are streamed.
class EmbeddingRows {
 public:
  EmbeddingRows(const formats::TensorFile& file, const formats::TensorInfo& info, bool in_file);
  /// Writes row `id` as float32 to `to` [C].
  void copy(int64_t id, float* to) const;

 private:
  formats::DType dtype_;
  size_t row_bytes_;
  at::Tensor memory_;  // uint8, in the file's type
  std::span<const std::byte> bytes_;
};

struct Rwkv4Weights {
  std::optional<EmbeddingRows> emb;
  NormWeights ln0, ln_out;
  std::vector<BlockWeights> blocks;
  std::unique_ptr<WeightMatrix> head;
  at::Tensor head_q, head_k;  // [Dq,C], with Head-QK
  NamedTensors vectors;       // all vectors above by their names in the file
};

/// Reads the weights of `config` as `slots` says; every shape is checked first. `file` must outlive
/// the result.
Rwkv4Weights load_rwkv4_weights(const formats::TensorFile& file, const ModelConfig& config,
                                const std::vector<Slot>& slots, const LoadProgress& progress);

/// The shape of every tensor that RWKV-4 of these sizes has, time_mix as [C].
Shapes rwkv4_shapes(const ModelConfig& config);

}  // namespace rwkv::model
