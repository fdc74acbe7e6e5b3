#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "model/formats/tensor_file.h"
#include "model/language_model.h"

namespace rwkv::model {

/// Tensors by their released names, e.g. "blocks.0.att.key.weight".
using Tensors = std::map<std::string, at::Tensor>;
using Shapes = std::map<std::string, std::vector<int64_t>>;

/// All tensors of a weight file, see formats::open_tensor_file(), in their stored dtypes, as copies
/// with 64-byte alignment: products of unaligned weights differ in the last bits. Throws UserError
/// naming the file and the mend.
Tensors read_tensors(const std::filesystem::path& file);

Shapes shapes_of(const Tensors& tensors);

/// Architecture, sizes and options of an RWKV-4 model, read off names and shapes. `where` starts
/// the message of the UserError for tensors that are no such model.
ModelConfig config_from_shapes(const Shapes& shapes, const std::string& where);

/// config_from_shapes() of an opened file.
ModelConfig config_of(const formats::TensorFile& file);

/// Called after each tensor with the bytes loaded so far and in all; may be empty.
using LoadProgress = std::function<void(int64_t done_bytes, int64_t all_bytes)>;

/// Loads `file` into the parameters of `model` tensor by tensor, straight from the map and with
/// conversion to their dtype: beyond the model itself, memory for one tensor at most is needed.
/// Throws one UserError that lists every tensor that is missing, unknown or of another shape,
/// before anything was copied; or one for damaged data, after which the model's values are
/// unspecified.
void load_weights(LanguageModel& model, const formats::TensorFile& file,
                  const LoadProgress& progress = {});

/// What a partial load did; the texts name the tensor and, where they matter, both shapes.
struct PartialLoad {
  int64_t loaded = 0;                  // tensors that were taken as they are
  std::vector<std::string> reshaped;   // the same number of elements in another shape
  std::vector<std::string> stretched;  // vectors of another length, by linear interpolation
  std::vector<std::string> missing;  // parameters that keep their values, since the file lacks them
  std::vector<std::string> unfit;    // parameters that keep their values: matrices of other shapes
  std::vector<std::string> left_over;  // tensors of the file that the model has no use for
};

/// Loads what fits. Vectors of another length are stretched as RWKV-LM's `RWKV-v4neo/train.py` does
/// at my_pile_stage 1: element i of n comes from place i/n * m of the file's m elements.
PartialLoad load_weights_partially(LanguageModel& model, const formats::TensorFile& file);

/// Reads one tensor of `file` into `into`, which has as many elements: any device, any shape.
void read_into(const formats::TensorFile& file, const formats::TensorInfo& info, at::Tensor into);

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
