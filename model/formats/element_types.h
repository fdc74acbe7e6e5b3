#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "model/formats/tensor_file.h"

namespace rwkv::formats {

/// Whether convert_elements() reads this type: all but float8.
bool is_number(DType dtype);
/// Whether convert_elements() writes this type: fp32, fp16, bf16.
bool is_weight_dtype(DType dtype);

/// Converts the elements in `from`, of type `from_dtype`, to `to_dtype`, by way of fp32, rounding
/// to nearest even; equal types are copied. The spans hold the same number of elements and may
/// begin at any address. Returns how many numbers, finite in fp32, became infinite (fp16 ends at
/// 65504). Throws std::logic_error for other types and for spans that do not agree.
int64_t convert_elements(std::span<const std::byte> from, DType from_dtype, std::span<std::byte> to,
                         DType to_dtype);

}  // namespace rwkv::formats
