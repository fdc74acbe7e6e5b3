#include "model/formats/element_types.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <stdexcept>

// Plain loops over small blocks, without branches, so that the compiler makes vector code of them.
namespace rwkv::formats {
namespace {

constexpr size_t kBlock = 4096;

float from_half(uint16_t half) {
  const uint32_t sign = (half & 0x8000U) << 16U;
  const uint32_t magnitude = (half & 0x7fffU) << 13U;
  // The exponent's bias grows from 15 to 127; the product also makes subnormal numbers normal.
  const float scaled = std::bit_cast<float>(magnitude) * 0x1p112F;
  const uint32_t special = (half & 0x7c00U) == 0x7c00U ? 0x7f800000U : 0U;  // infinite or NaN
  return std::bit_cast<float>(std::bit_cast<uint32_t>(scaled) | special | sign);
}

uint16_t to_half(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  const uint32_t sign = (bits & 0x80000000U) >> 16U;
  const uint32_t magnitude = bits & 0x7fffffffU;
  // Below 2^-14 the addition of 1/2 leaves the rounded subnormal in the lowest bits.
  const uint32_t subnormal = std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) + 0.5F) -
                             std::bit_cast<uint32_t>(0.5F);
  const uint32_t odd = (magnitude >> 13U) & 1U;
  const uint32_t normal = (magnitude - (112U << 23U) + 0xfffU + odd) >> 13U;
  const uint32_t beyond = magnitude > 0x7f800000U ? 0x7e00U : 0x7c00U;
  const uint32_t finite = magnitude < (113U << 23U) ? subnormal : normal;
  return static_cast<uint16_t>((magnitude >= 0x47800000U ? beyond : finite) | sign);
}

float from_bfloat16(uint16_t value) {
  return std::bit_cast<float>(static_cast<uint32_t>(value) << 16U);
}

uint16_t to_bfloat16(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  const uint32_t rounded = (bits + 0x7fffU + ((bits >> 16U) & 1U)) >> 16U;
  const bool is_nan = (bits & 0x7fffffffU) > 0x7f800000U;
  return static_cast<uint16_t>(is_nan ? (bits >> 16U) | 0x40U : rounded);
}

/// `count` elements of type T at `from`, converted one by one. Copied first, for their alignment.
template <typename T, typename Convert>
void load_as(const std::byte* from, size_t count, float* to, Convert convert) {
  std::array<T, kBlock> block;
  std::memcpy(block.data(), from, count * sizeof(T));
  for (size_t i = 0; i < count; ++i) to[i] = convert(block[i]);
}

template <typename T>
void load_number(const std::byte* from, size_t count, float* to) {
  load_as<T>(from, count, to, [](T value) { return static_cast<float>(value); });
}

void load_block(const std::byte* from, DType dtype, size_t count, float* to) {
  switch (dtype) {
    case DType::f64:
      return load_number<double>(from, count, to);
    case DType::f32:
      return static_cast<void>(std::memcpy(to, from, count * sizeof(float)));
    case DType::f16:
      return load_as<uint16_t>(from, count, to, from_half);
    case DType::bf16:
      return load_as<uint16_t>(from, count, to, from_bfloat16);
    case DType::i64:
      return load_number<int64_t>(from, count, to);
    case DType::i32:
      return load_number<int32_t>(from, count, to);
    case DType::i16:
      return load_number<int16_t>(from, count, to);
    case DType::i8:
      return load_number<int8_t>(from, count, to);
    case DType::u8:
      return load_number<uint8_t>(from, count, to);
    case DType::u64:
      return load_number<uint64_t>(from, count, to);
    case DType::u32:
      return load_number<uint32_t>(from, count, to);
    case DType::u16:
      return load_number<uint16_t>(from, count, to);
    case DType::boolean:
      return load_as<uint8_t>(from, count, to, [](uint8_t b) { return b != 0 ? 1.0F : 0.0F; });
    default:
      throw std::logic_error("convert_elements: no numbers");
  }
}

template <typename Convert>
void store_as(const float* from, size_t count, std::byte* to, Convert convert) {
  std::array<uint16_t, kBlock> block;
  for (size_t i = 0; i < count; ++i) block[i] = convert(from[i]);
  std::memcpy(to, block.data(), count * sizeof(uint16_t));
}

void store_block(const float* from, size_t count, std::byte* to, DType dtype) {
  if (dtype == DType::f16) return store_as(from, count, to, to_half);
  if (dtype == DType::bf16) return store_as(from, count, to, to_bfloat16);
  std::memcpy(to, from, count * sizeof(float));
}

/// Finite numbers that rounding takes beyond the largest one of `dtype`.
int64_t count_overflows(const float* values, size_t count, DType dtype) {
  if (dtype == DType::f32) return 0;
  const float bound = dtype == DType::f16 ? 65520.0F : 0x1.ffp127F;  // half way to the next
  int64_t overflows = 0;
  for (size_t i = 0; i < count; ++i) {
    const float magnitude = std::fabs(values[i]);
    overflows += static_cast<int64_t>(magnitude >= bound && magnitude <= 0x1.fffffep127F);
  }
  return overflows;
}

}  // namespace

bool is_number(DType dtype) { return dtype != DType::f8_e4m3 && dtype != DType::f8_e5m2; }

bool is_weight_dtype(DType dtype) {
  return dtype == DType::f32 || dtype == DType::f16 || dtype == DType::bf16;
}

int64_t convert_elements(std::span<const std::byte> from, DType from_dtype, std::span<std::byte> to,
                         DType to_dtype) {
  const auto from_size = static_cast<size_t>(item_size(from_dtype));
  const auto to_size = static_cast<size_t>(item_size(to_dtype));
  const size_t count = from.size() / from_size;
  if (from.size() != count * from_size || to.size() != count * to_size) {
    throw std::logic_error("convert_elements: spans of different length");
  }
  if (from.empty()) return 0;
  if (from_dtype == to_dtype) {
    std::memcpy(to.data(), from.data(), from.size());
    return 0;
  }
  if (!is_number(from_dtype) || !is_weight_dtype(to_dtype)) {
    throw std::logic_error("convert_elements: types without a rule");
  }
  std::array<float, kBlock> block;
  int64_t overflows = 0;
  for (size_t at = 0; at < count; at += kBlock) {
    const size_t n = std::min(kBlock, count - at);
    load_block(from.data() + at * from_size, from_dtype, n, block.data());
    overflows += count_overflows(block.data(), n, to_dtype);
    store_block(block.data(), n, to.data() + at * to_size, to_dtype);
  }
  return overflows;
}

}  // namespace rwkv::formats
