#include "cuda/elementwise.h"

#include <ATen/ATen.h>
#include <torch/library.h>

namespace rwkv::ops {

TORCH_LIBRARY_FRAGMENT(rwkv, m) {
  m.def("relu_square(Tensor x) -> Tensor");
  m.def("relu_square_backward_(Tensor x, Tensor(a!) g) -> Tensor");
  m.def("gate_residual(Tensor x, Tensor r, Tensor v) -> Tensor");
  m.def("gate_residual_backward(Tensor g, Tensor r, Tensor v) -> (Tensor r, Tensor v)");
}

using In = const at::Tensor&;
using Two = std::tuple<at::Tensor, at::Tensor>;

void check_elementwise(const char* op, In tensor) {
  const auto type = tensor.scalar_type();
  TORCH_CHECK(
      type == at::kFloat || type == at::kBFloat16 || type == at::kHalf || type == at::kDouble, op,
      ": the type is ", type, ", expected Float, BFloat16, Half or Double");
}

void check_elementwise(const char* op, In tensor, const char* name, In other) {
  check_elementwise(op, tensor);
  TORCH_CHECK(other.sizes() == tensor.sizes(), op, ": ", name, " has shape ", other.sizes(),
              ", expected ", tensor.sizes());
  TORCH_CHECK(other.scalar_type() == tensor.scalar_type(), op, ": ", name, " is ",
              other.scalar_type(), ", expected ", tensor.scalar_type());
  TORCH_CHECK(other.device() == tensor.device(), op, ": ", name, " is on ", other.device(),
              ", expected ", tensor.device());
}

at::Tensor call_relu_square(In x) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("rwkv::relu_square", "")
                             .typed<at::Tensor(In)>();
  return op.call(x);
}

at::Tensor call_relu_square_backward(In x, In g) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("rwkv::relu_square_backward_", "")
                             .typed<at::Tensor(In, at::Tensor)>();
  return op.call(x, g);
}

at::Tensor call_gate_residual(In x, In r, In v) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("rwkv::gate_residual", "")
                             .typed<at::Tensor(In, In, In)>();
  return op.call(x, r, v);
}

Two call_gate_residual_backward(In g, In r, In v) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("rwkv::gate_residual_backward", "")
                             .typed<Two(In, In, In)>();
  return op.call(g, r, v);
}

namespace {

// The same composed of LibTorch's operators, for devices without kernels of ours.

at::Tensor wide(In tensor) {
  return tensor.scalar_type() == at::kDouble ? tensor : tensor.to(at::kFloat);
}

at::Tensor relu_square_composed(In x) {
  check_elementwise("relu_square", x);
  return wide(x).clamp_min(0).square().to(x.scalar_type());
}

at::Tensor relu_square_backward_composed(In x, at::Tensor g) {
  check_elementwise("relu_square", x, "the gradient", g);
  const at::Tensor h = wide(x).clamp_min(0);
  g.copy_(wide(g) * h * 2);
  return h.square().to(x.scalar_type());
}

at::Tensor gate_residual_composed(In x, In r, In v) {
  check_elementwise("gate_residual", x, "r", r);
  check_elementwise("gate_residual", x, "v", v);
  return (wide(x) + wide(r).sigmoid() * wide(v)).to(x.scalar_type());
}

Two gate_residual_backward_composed(In g, In r, In v) {
  check_elementwise("gate_residual", g, "r", r);
  check_elementwise("gate_residual", g, "v", v);
  const at::Tensor s = wide(r).sigmoid();
  const at::Tensor gs = wide(g) * s;
  return {(gs * (1 - s) * wide(v)).to(g.scalar_type()), gs.to(g.scalar_type())};
}

// Also the kernels of the meta device.
TORCH_LIBRARY_IMPL(rwkv, CompositeExplicitAutograd, m) {
  m.impl("relu_square", relu_square_composed);
  m.impl("relu_square_backward_", relu_square_backward_composed);
  m.impl("gate_residual", gate_residual_composed);
  m.impl("gate_residual_backward", gate_residual_backward_composed);
}

}  // namespace
}  // namespace rwkv::ops
