#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "model/formats/tensor_file.h"

namespace rwkv::formats {

/// Gives all tensors the names of BlinkDL's released files: a prefix such as "module." that all of
/// them share is dropped, and the names of transformers' RwkvForCausalLM are translated. Names that
/// mean nothing are left as they are. Throws UserError when two tensors end up with one name;
/// `source` names the file.
void use_released_names(std::vector<TensorInfo>& tensors, const std::string& source);

/// transformers' name of the tensor that released files call `name`, e.g.
/// rwkv.blocks.0.attention.time_mix_key for blocks.0.att.time_mix_k. For RWKV-4's names only.
std::string transformers_name(std::string_view name);

/// Constants that the original programs save among the weights (masks of attention and Head-QK).
bool is_mask_buffer(std::string_view name);

/// The number i of "blocks.i.rest", or -1 for other names.
int64_t block_of(std::string_view name);

/// Sorts `names`' places as released files list them: emb, blocks by number, ln_out, head, the
/// rest; the order inside each of these stays.
std::vector<size_t> released_order(const std::vector<TensorInfo>& tensors);

}  // namespace rwkv::formats
