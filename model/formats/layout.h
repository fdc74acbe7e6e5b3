#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "model/formats/tensor_file.h"

namespace rwkv::formats {

/// What names and shapes tell of an RWKV model, whether or not this program runs it.
struct Layout {
  std::string version;  // "4", "5.0", "5.1", "5.2", "6", "7", as the rwkv package counts them
  int64_t n_layer = 0;
  int64_t n_embd = 0;
  int64_t dim_att = 0;
  int64_t dim_ffn = 0;
  int64_t vocab_size = 0;
  bool pre_ffn = false;
  int64_t head_qk = 0;   // width; 0 = none
  int64_t tiny_att = 0;  // width of RWKV-4a's tiny attention; 0 = none
  bool att_qkv = false;  // RWKV-4b: attention beside TimeMix (att.qq, att.kk, att.vv)
  bool pos_emb = false;  // blocks.0.pos_emb_x, pos_emb_y
};

using ShapesByName = std::map<std::string, std::vector<int64_t>>;
ShapesByName shapes_of(const std::vector<TensorInfo>& tensors);

/// The layout, or nothing when these are no RWKV weights (no emb.weight, or no blocks).
std::optional<Layout> recognise_rwkv(const ShapesByName& shapes);

/// "RWKV-4, L12 C768 V50277, dim_ffn 3072, with Head-QK 256 and pre_ffn".
std::string describe(const Layout& layout);

/// Names of the options that plain RWKV-4 does not have, e.g. "Head-QK 256"; empty for plain ones.
std::vector<std::string> options_of(const Layout& layout);

}  // namespace rwkv::formats
