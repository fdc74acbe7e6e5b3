#pragma once

#include <ATen/core/Tensor.h>

#include <string_view>

#include "model/language_model.h"

namespace rwkv::model {

/// Whether a parameter stays float32 in a 16-bit model: RWKV-4's time_decay and time_first, because
/// a decay exp(-exp(w)) near 1 collapses in 16 bits.
bool stays_float32(std::string_view name);

/// Turns the parameters of `model` into `dtype` (but for those that stay float32) on `device`, in
/// place: tensors that hold a parameter see the change. dtype: float64, float32, bfloat16 or
/// float16; in float64 all parameters change.
void convert_parameters(LanguageModel& model, at::ScalarType dtype, at::Device device = at::kCPU);

}  // namespace rwkv::model
