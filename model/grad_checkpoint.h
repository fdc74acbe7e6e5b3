#pragma once

#include <ATen/core/Tensor.h>

#include <functional>

namespace rwkv::model {

/// y = segment(x) for training with less memory: of everything between x and y only x is kept, and
/// the backward pass runs `segment` once more. Values and gradients equal those of a plain call to
/// the last bit, provided that `segment` is a function of x and of parameters. Gradients reach x
/// and all parameters that `segment` uses. A plain call where x needs no gradient.
at::Tensor grad_checkpoint(std::function<at::Tensor(const at::Tensor&)> segment,
                           const at::Tensor& x);

}  // namespace rwkv::model
