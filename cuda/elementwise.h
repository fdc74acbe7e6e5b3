#pragma once

#include <ATen/core/Tensor.h>

#include <tuple>

namespace rwkv::ops {

// `rwkv::relu_square`: y = max(x, 0)^2, of any shape. Its backward turns the gradient of y into
// that of x in place, and computes y once more: the product whose weight's gradient comes next
// reads it, and it need not be kept from the forward.
//
// `rwkv::gate_residual`: out = x + sigmoid(r) v, all of one shape; the gradient of x is that of
// out.
//
// float32, float64, bfloat16 or float16; arithmetic in float32 (float64 for float64).

at::Tensor call_relu_square(const at::Tensor& x);
/// g: gradient of y, contiguous; becomes the gradient of x. Returns y.
at::Tensor call_relu_square_backward(const at::Tensor& x, const at::Tensor& g);

at::Tensor call_gate_residual(const at::Tensor& x, const at::Tensor& r, const at::Tensor& v);
/// g: gradient of out. Returns the gradients of r and v.
std::tuple<at::Tensor, at::Tensor> call_gate_residual_backward(const at::Tensor& g,
                                                               const at::Tensor& r,
                                                               const at::Tensor& v);

/// Checks that `tensor` is a floating type with a kernel.
void check_elementwise(const char* op, const at::Tensor& tensor);
/// The same, and that `other` has the shape, type and device of `tensor`.
void check_elementwise(const char* op, const at::Tensor& tensor, const char* name,
                       const at::Tensor& other);

}  // namespace rwkv::ops
