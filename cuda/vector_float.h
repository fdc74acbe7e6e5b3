#pragma once

#include <ATen/cpu/vec/vec.h>

#include <bit>

#include "cuda/wkv4_tile.h"

// A vector of floats of the instruction set that a file is compiled for (CPU_CAPABILITY), for the
// files that cuda/CMakeLists.txt compiles once for each. Everything has internal linkage: the
// linker must never take one file's copy for another's.

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

}  // namespace rwkv::ops
