#include "model/precision.h"

#include <torch/torch.h>

namespace rwkv::model {

bool stays_float32(std::string_view name) {
  return name.ends_with(".time_decay") || name.ends_with(".time_first");
}

void convert_parameters(LanguageModel& model, at::ScalarType dtype, at::Device device) {
  TORCH_CHECK(at::isFloatingType(dtype), "convert_parameters: ", dtype,
              " is no type for weights; use float64, float32, bfloat16 or float16");
  const bool half = dtype == at::kBFloat16 || dtype == at::kHalf;
  const torch::NoGradGuard no_grad;
  for (const auto& entry : model.named_parameters()) {
    const auto target = half && stays_float32(entry.key()) ? at::kFloat : dtype;
    at::Tensor parameter = entry.value();
    parameter.set_data(parameter.to(device, target));
  }
}

}  // namespace rwkv::model
