#include "tests/golden/golden_tensors.h"

#include <torch/torch.h>

#include <limits>

#include "model/weights.h"

namespace rwkv::golden {

at::Device& golden_device() {
  static at::Device device = at::kCPU;
  return device;
}

Tensors load_pth(const std::filesystem::path& file) {
  Tensors tensors = model::read_tensors(file);
  for (auto& entry : tensors) entry.second = entry.second.to(golden_device());
  return tensors;
}

double max_difference(const at::Tensor& ours, const at::Tensor& expected) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  if (!ours.defined() || ours.sizes() != expected.sizes()) return kInfinity;
  if (ours.numel() == 0) return 0;
  const at::Tensor difference =
      (ours.detach().to(at::kDouble) - expected.to(at::kDouble)).abs().max();
  const auto value = difference.item<double>();
  return value == value ? value : kInfinity;
}

double relative_difference(const at::Tensor& ours, const at::Tensor& expected) {
  if (expected.numel() == 0) return max_difference(ours, expected);
  const auto largest = expected.to(at::kDouble).abs().max().item<double>();
  return max_difference(ours, expected) / (largest > 0 ? largest : 1.0);
}

}  // namespace rwkv::golden
