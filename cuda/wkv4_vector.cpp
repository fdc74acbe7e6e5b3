// Compiled once per instruction set (CPU_CAPABILITY); RWKV_WKV_KERNELS names the table of each.
// This file must emit no weak function: the linker could keep the copy with AVX-512 instructions
// for all callers. Hence everything has internal linkage and is inlined into the functions below.
#include "cuda/wkv4_vector.h"

#include <bit>

#include "cuda/vector_float.h"

namespace rwkv::ops {
namespace {

__attribute__((flatten)) void forward(const WkvForwardTile<float>& tile) {
  wkv_forward_tile<Vec, false>(tile);
}

__attribute__((flatten)) void forward_training(const WkvForwardTile<float>& tile) {
  wkv_forward_tile<Vec, true>(tile);
}

__attribute__((flatten)) void backward(const WkvBackwardTile<float>& tile) {
  wkv_backward_tile<Vec>(tile);
}

__attribute__((flatten)) void widen_bf16(const uint16_t* from, float* to, int64_t count) {
  for (int64_t i = 0; i < count; ++i) to[i] = std::bit_cast<float>(uint32_t{from[i]} << 16);
}

__attribute__((flatten)) void narrow_bf16(const float* from, uint16_t* to, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    const auto bits = std::bit_cast<uint32_t>(from[i]);
    const uint32_t rounded = (bits + 0x7FFFU + ((bits >> 16) & 1U)) >> 16;
    const bool is_nan = (bits & 0x7FFFFFFFU) > 0x7F800000U;
    to[i] = static_cast<uint16_t>(is_nan ? 0x7FC0U : rounded);
  }
}

/// Moved to a float's place, the bits of a float16 mean its value times 2^-112: also below 2^-14,
/// where both types give up the leading 1. Infinity and NaN have an exponent of their own.
__attribute__((flatten)) void widen_fp16(const uint16_t* from, float* to, int64_t count) {
  const float two_to_112 = std::bit_cast<float>(uint32_t{127 + 112} << 23);
  for (int64_t i = 0; i < count; ++i) {
    const uint32_t half = from[i];
    const uint32_t sign = (half & 0x8000U) << 16;
    const uint32_t magnitude = (half & 0x7FFFU) << 13;
    const uint32_t finite = std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) * two_to_112);
    const bool is_special = (half & 0x7C00U) == 0x7C00U;
    to[i] = std::bit_cast<float>(sign | (is_special ? magnitude | 0x7F800000U : finite));
  }
}

/// Below 2^-14 the steps of float16 are 2^-24, as those of floats in [0.5, 1): adding 0.5 rounds.
__attribute__((flatten)) void narrow_fp16(const float* from, uint16_t* to, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    const auto bits = std::bit_cast<uint32_t>(from[i]);
    const uint32_t magnitude = bits & 0x7FFFFFFFU;
    const uint32_t small = std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) + 0.5F);
    const uint32_t rounded = magnitude + 0x0FFFU + ((magnitude >> 13) & 1U);
    uint32_t half = magnitude < 0x38800000U ? small - 0x3F000000U : (rounded >> 13) - (112U << 10);
    half = magnitude >= 0x477FF000U ? 0x7C00U : half;  // from 65520 on: infinity
    half = magnitude > 0x7F800000U ? 0x7E00U : half;   // NaN
    to[i] = static_cast<uint16_t>(((bits >> 16) & 0x8000U) | half);
  }
}

}  // namespace

const WkvVectorKernels RWKV_WKV_KERNELS{forward,     forward_training, backward,   widen_bf16,
                                        narrow_bf16, widen_fp16,       narrow_fp16};

}  // namespace rwkv::ops
