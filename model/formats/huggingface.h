#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>

#include "model/formats/layout.h"
#include "model/formats/tensor_file.h"

// Weights as Hugging Face's transformers lays them out (class RwkvForCausalLM): a folder with
// config.json and model.safetensors, or pytorch_model.bin in old uploads, or shards of either with
// an index file.
namespace rwkv::formats {

/// Whether a folder holds such weights.
bool is_huggingface_folder(const std::filesystem::path& folder);

/// Opens such a folder; see open_tensor_file(). With tie_word_embeddings in its config.json the
/// head is the embedding. Throws UserError when config.json and tensors disagree (with both
/// numbers), or when it describes another kind of model.
TensorFile open_huggingface_folder(const std::filesystem::path& folder);

/// Whether these bytes are JSON with a weight_map.
bool is_shard_index(std::span<const std::byte> bytes);

/// Opens the shards that an index file names; they lie beside it.
TensorFile open_sharded(const std::filesystem::path& index);

/// What config.json says beside the sizes of the layout.
struct HuggingFaceOptions {
  int64_t ctx_len = 1024;
  int64_t bos_token_id = 0;
  int64_t eos_token_id = 0;
  DType dtype = DType::f32;  // of the tensors
};

/// config.json of a plain RWKV-4 model.
std::string huggingface_config(const Layout& layout, const HuggingFaceOptions& options);
/// generation_config.json.
std::string huggingface_generation_config(const HuggingFaceOptions& options);

}  // namespace rwkv::formats
