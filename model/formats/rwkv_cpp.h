#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

#include "model/formats/tensor_file.h"

// Weight files of rwkv.cpp (github.com/RWKV/rwkv.cpp, python/convert_pytorch_to_ggml.py): a header
// of six 32-bit numbers, then tensors to the end of the file, each behind its rank, the length of
// its name, its type, its sizes (fastest first) and its name.
namespace rwkv::formats {

/// How such a file begins.
constexpr std::string_view kRwkvCppMagic = "fmgg";

/// Reads an RWKV-4 file in fp32 or fp16, versions 100 and 101. What the format stores otherwise is
/// turned back: time_decay, stored as -exp(time_decay), by ln(-x). Vectors stay of one dimension.
/// Throws UserError for damage, for quantised types and for other versions of RWKV, by name;
/// `source` names the file. The result views `bytes`.
TensorFileContents read_rwkv_cpp(std::span<const std::byte> bytes, const std::string& source);

/// The sizes in the header.
struct RwkvCppHeader {
  int64_t vocab_size = 0;
  int64_t n_embd = 0;
  int64_t n_layer = 0;
  DType dtype = DType::f32;  // of the matrices: f32 or f16
};

/// The shape that rwkv.cpp's converter stores: .time_* without their sizes of 1.
std::vector<int64_t> rwkv_cpp_shape(std::string_view name, const std::vector<int64_t>& shape);
/// Its type in a file of `dtype`: vectors and .time_* stay fp32.
DType rwkv_cpp_dtype(std::string_view name, const std::vector<int64_t>& stored_shape, DType dtype);
/// Replaces raw time_decay by what the file holds, -exp(x).
void to_rwkv_cpp_decay(std::span<float> values);

/// Writes such a file (version 101) atomically, tensors in the given order; specs and bytes are
/// those that are stored. Throws UserError when the disk is full or read-only, or when a size does
/// not fit 32 bits; std::logic_error for types other than f32 and f16.
WrittenFile write_rwkv_cpp(const std::filesystem::path& path, const RwkvCppHeader& header,
                           std::span<const TensorSpec> specs, const TensorBytes& bytes);

}  // namespace rwkv::formats
