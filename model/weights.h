#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "model/language_model.h"

namespace rwkv::model {

/// Tensors by their released names, e.g. "blocks.0.att.key.weight".
using Tensors = std::map<std::string, at::Tensor>;
using Shapes = std::map<std::string, std::vector<int64_t>>;

/// All tensors of a .pth or safetensors file in their stored dtypes, as copies with 64-byte
/// alignment: products of unaligned weights differ in the last bits. Throws UserError naming the
/// file and the mend.
Tensors read_tensors(const std::filesystem::path& file);

Shapes shapes_of(const Tensors& tensors);

/// Architecture, sizes and options of an RWKV-4 model, read off names and shapes. `where` starts
/// the message of the UserError for tensors that are no such model.
ModelConfig config_from_shapes(const Shapes& shapes, const std::string& where);

/// Copies `tensors` into the parameters of `model`, converting to their dtype. Mask buffers of the
/// original programs are ignored, and time_mix may be [C] as well as [1,1,C]. Throws one UserError
/// that lists every tensor that is missing, unknown or of another shape; then nothing was copied.
void load_weights(LanguageModel& model, const Tensors& tensors, const std::string& where);

using NamedTensors = std::vector<std::pair<std::string, at::Tensor>>;

/// Sorts weights into the order in which files list them: emb, blocks, ln_out, head, then the rest.
void sort_for_file(NamedTensors& weights);
/// The parameters of `model` in that order.
NamedTensors ordered_parameters(const LanguageModel& model);

/// Writes all parameters as a .pth that Python's `torch.load` reads with its defaults, with the
/// original's key names. Atomic: `file` is the old one or the whole new one.
void save_pth(const LanguageModel& model, const std::filesystem::path& file);

/// Size and checksum of a file that was written.
struct WrittenFile {
  int64_t size_bytes = 0;
  uint32_t crc32c = 0;
};

/// Writes tensors as safetensors with string metadata; atomic like save_pth.
WrittenFile save_safetensors(const std::vector<std::pair<std::string, at::Tensor>>& tensors,
                             const std::filesystem::path& file,
                             const std::map<std::string, std::string>& metadata = {});

}  // namespace rwkv::model
