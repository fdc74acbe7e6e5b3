// Compiled once per instruction set (CPU_CAPABILITY); RWKV_WKV_KERNELS names the table of each.
// This file must emit no weak function: the linker could keep the copy with AVX-512 instructions
// for all callers. Hence everything has internal linkage and is inlined into the functions below.
#include "cuda/wkv4_vector.h"

#include <ATen/cpu/vec/vec.h>

#include <bit>

namespace rwkv::ops {
namespace {

using Floats = at::vec::Vectorized<float>;
using Ints = at::vec::Vectorized<int32_t>;

/// A vector of floats in the terms of wkv4_step.h.
struct Vec {
  Floats x;

  Vec() = default;
  explicit Vec(float value) : x(value) {}
  explicit Vec(Floats value) : x(value) {}
};

inline Vec operator+(Vec l, Vec r) { return Vec(l.x + r.x); }
inline Vec operator-(Vec l, Vec r) { return Vec(l.x - r.x); }
inline Vec operator*(Vec l, Vec r) { return Vec(l.x * r.x); }
inline Vec operator/(Vec l, Vec r) { return Vec(l.x / r.x); }
inline Vec operator-(Vec r) { return Vec(r.x.neg()); }

inline Vec neg_abs(Vec v) { return Vec(v.x | Floats(-0.0F)); }
inline Vec min_zero(Vec v) { return Vec(at::vec::clamp_max(v.x, Floats(0.0F))); }
// clamp_min returns its first argument when that is not a number, so NaN keys stay visible.
inline Vec max_of(Vec l, Vec r) { return Vec(at::vec::clamp_min(l.x, r.x)); }

inline WkvWeights<Vec> select_ge(Vec difference, Vec e) {
  const Floats one(1.0F);
#if defined(CPU_CAPABILITY_AVX2)
  // This blend looks at sign bits only, so the difference is its own mask.
  return {Vec(Floats::blendv(one, e.x, difference.x)), Vec(Floats::blendv(e.x, one, difference.x))};
#else
  const Floats mask = difference.x >= Floats(0.0F);
  return {Vec(Floats::blendv(e.x, one, mask)), Vec(Floats::blendv(one, e.x, mask))};
#endif
}

/// exp(x) for x <= 0, within 2 ulp; exactly 1 at 0 and exactly 0 below -88.
///
/// exp(x) = 2^n exp(r) with n = round(x / ln 2). Adding 1.5 * 2^23 + 127 rounds and leaves n + 127
/// in the low bits, which shifted are the float 2^n; n = -127 gives 0. The polynomial is 1 + r +
/// r^2 P(r) with P fitted on |r| <= ln(2)/2 for the smallest relative error: slow decays need
/// exp(r) = 1 + r exactly to first order.
inline Vec exp_nonpositive(Vec v) {
  const Floats magic(12582912.0F + 127.0F);
  const Floats x = at::vec::clamp_min(v.x, Floats(-88.02F));
  const Floats shifted = at::vec::fmadd(x, Floats(1.44269504F), magic);
  const Floats n = shifted - magic;
  const Floats r = at::vec::fnmadd(n, Floats(0.693147182F), x);
  Floats poly(8.31252014e-3F);
  poly = at::vec::fmadd(poly, r, Floats(4.18901568e-2F));
  poly = at::vec::fmadd(poly, r, Floats(1.66671146e-1F));
  poly = at::vec::fmadd(poly, r, Floats(4.99992315e-1F));
  poly = at::vec::fmadd(poly, r, Floats(1.0F));
  poly = at::vec::fmadd(poly, r, Floats(1.0F));
  const auto scale = std::bit_cast<Floats>(std::bit_cast<Ints>(shifted) << Ints(23));
  return Vec(poly * scale);
}

}  // namespace

template <>
struct WkvLanes<Vec> {
  using Scalar = float;
  static constexpr int64_t kCount = Floats::size();
  static Vec load(const float* from, int64_t count) {
    return Vec(count == kCount ? Floats::loadu(from) : Floats::loadu(from, count));
  }
  static void store(Vec v, float* to, int64_t count) {
    if (count == kCount) {
      v.x.store(to);
    } else {
      v.x.store(to, static_cast<int>(count));
    }
  }
};

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
