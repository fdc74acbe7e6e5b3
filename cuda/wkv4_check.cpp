#include <ATen/ATen.h>

#include "cuda/wkv4.h"

namespace rwkv::ops {
namespace {

void check_sizes(const char* name, const at::Tensor& tensor, at::IntArrayRef expected,
                 const char* meaning) {
  TORCH_CHECK(tensor.sizes() == expected, "wkv4: ", name, " has shape ", tensor.sizes(),
              ", expected ", meaning, " = ", expected);
}

void check_dtype(const char* name, const at::Tensor& tensor, at::ScalarType expected) {
  TORCH_CHECK(tensor.scalar_type() == expected, "wkv4: ", name, " is ", tensor.scalar_type(),
              ", expected ", expected);
}

void check_device(const char* name, const at::Tensor& tensor, const at::Tensor& k) {
  TORCH_CHECK(tensor.device() == k.device(), "wkv4: ", name, " is on ", tensor.device(),
              ", but k is on ", k.device());
}

void check_parameter(const char* name, const at::Tensor& parameter, const at::Tensor& k,
                     int64_t C) {
  check_device(name, parameter, k);
  check_sizes(name, parameter, {C}, "(C)");
  const bool float_beside_16_bits =
      at::isReducedFloatingType(k.scalar_type()) && parameter.scalar_type() == at::kFloat;
  TORCH_CHECK(float_beside_16_bits || parameter.scalar_type() == k.scalar_type(), "wkv4: ", name,
              " is ", parameter.scalar_type(), ", but k is ", k.scalar_type());
}

}  // namespace

Wkv4Shape check_wkv4(const Wkv4Arguments& in, int64_t tile_tokens) {
  const at::Tensor& k = in.k;
  TORCH_CHECK(k.dim() == 3, "wkv4: k has ", k.dim(), " dimensions, expected 3 (B, T, C)");
  const auto type = k.scalar_type();
  TORCH_CHECK(
      type == at::kFloat || type == at::kBFloat16 || type == at::kHalf || type == at::kDouble,
      "wkv4: k is ", type, ", expected Float, BFloat16, Half or Double");
  check_device("v", in.v, k);
  check_sizes("v", in.v, k.sizes(), "the shape of k");
  check_dtype("v", in.v, type);
  if (in.r != nullptr) {
    check_device("r", *in.r, k);
    check_sizes("r", *in.r, k.sizes(), "the shape of k");
    check_dtype("r", *in.r, type);
  }
  const int64_t B = k.size(0);
  const int64_t T = k.size(1);
  const int64_t C = k.size(2);
  check_parameter("time_decay", in.time_decay, k, C);
  check_parameter("time_first", in.time_first, k, C);
  if (in.reset.has_value()) {
    check_device("reset", *in.reset, k);
    check_sizes("reset", *in.reset, {B, T}, "(B, T)");
    check_dtype("reset", *in.reset, at::kBool);
  }
  const int64_t tiles = std::max<int64_t>(1, (T + tile_tokens - 1) / tile_tokens);
  return {B, T, C, type == at::kDouble ? at::kDouble : at::kFloat, tiles, {B, C}, {B, tiles, 5, C}};
}

void check_wkv4_state(const Wkv4Arguments& in, const Wkv4Shape& shape, const OptionalTensor& a,
                      const OptionalTensor& b, const OptionalTensor& p) {
  TORCH_CHECK(a.has_value() == b.has_value() && a.has_value() == p.has_value(),
              "wkv4: the state needs a, b and p or none of them, got a: ", a.has_value(),
              ", b: ", b.has_value(), ", p: ", p.has_value());
  if (!a.has_value()) return;
  const char* const names[] = {"state a", "state b", "state p"};
  const OptionalTensor* const tensors[] = {&a, &b, &p};
  for (int i = 0; i < 3; ++i) {
    check_device(names[i], **tensors[i], in.k);
    check_sizes(names[i], **tensors[i], shape.state(), "(B, C)");
    check_dtype(names[i], **tensors[i], shape.math);
  }
}

void check_wkv4_backward(const Wkv4Arguments& in, const Wkv4Shape& shape,
                         const at::Tensor& checkpoints, const OptionalTensor& gy,
                         const OptionalTensor& ga, const OptionalTensor& gb) {
  check_device("checkpoints", checkpoints, in.k);
  check_sizes("checkpoints", checkpoints, shape.checkpoints(), "(B, tiles, 5, C)");
  check_dtype("checkpoints", checkpoints, shape.math);
  if (gy.has_value()) {
    check_device("gradient of y", *gy, in.k);
    check_sizes("gradient of y", *gy, in.k.sizes(), "the shape of k");
    check_dtype("gradient of y", *gy, in.k.scalar_type());
  }
  for (const auto& [name, gradient] :
       {std::pair<const char*, const OptionalTensor&>("gradient of a", ga),
        std::pair<const char*, const OptionalTensor&>("gradient of b", gb)}) {
    if (!gradient.has_value()) continue;
    check_device(name, *gradient, in.k);
    check_sizes(name, *gradient, shape.state(), "(B, C)");
    check_dtype(name, *gradient, shape.math);
  }
}

}  // namespace rwkv::ops
