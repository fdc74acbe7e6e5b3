#pragma once

#include <ATen/core/Tensor.h>

#include <filesystem>
#include <map>
#include <string>

namespace rwkv::golden {

using Tensors = std::map<std::string, at::Tensor>;

/// Where the checkers that have a GPU part compute; set once by main, the CPU until then.
at::Device& golden_device();

/// All tensors of a .pth file by name, in their stored dtypes, on golden_device().
Tensors load_pth(const std::filesystem::path& file);

/// Largest |ours - expected|, both as float64. Infinity when shapes differ or a value is not
/// finite.
double max_difference(const at::Tensor& ours, const at::Tensor& expected);

/// max_difference divided by the largest |expected| (by 1 where that is 0).
double relative_difference(const at::Tensor& ours, const at::Tensor& expected);

}  // namespace rwkv::golden
