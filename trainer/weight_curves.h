#pragma once

#include <string>

#include "model/formats/tensor_file.h"

namespace rwkv::trainer {

/// A picture (a self-contained SVG) of what an RWKV-4's channels remember, by layer:
///   half-life of each channel's memory, ln 2 / exp(time_decay) tokens, sorted, one line a layer
///   time_mix of each channel, sorted, one row a layer: 1 = this token only, 0 = the last one only
/// Throws UserError when the file holds no RWKV-4.
std::string weight_curves_svg(const formats::TensorFile& file);

}  // namespace rwkv::trainer
