// Compiled once per instruction set (CPU_CAPABILITY); RWKV_INFERENCE_KERNELS names the table of
// each. Like wkv4_vector.cpp this file must emit no weak function. A product reads one row after
// the other: two rows at once, though they share x, halved the speed on the processors that were
// tried, whose prefetchers follow one stream at its best.
#include "cuda/inference_vector.h"

#include <bit>

#include "cuda/vector_float.h"

#if defined(CPU_CAPABILITY_AVX512) || defined(CPU_CAPABILITY_AVX2)
#include <immintrin.h>
#endif

namespace rwkv::ops {
namespace {

constexpr int64_t kLanes = Floats::size();

inline float sum_of(Floats v) {
#if defined(CPU_CAPABILITY_AVX512)
  return _mm512_reduce_add_ps(v);
#else
  float lanes[kLanes];
  v.store(lanes);
  for (int64_t half = kLanes / 2; half > 0; half /= 2) {
    for (int64_t i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  }
  return lanes[0];
#endif
}

/// kLanes weights as floats.
struct Fp32 {
  using Stored = float;
  static Floats load(const float* from) { return Floats::loadu(from); }
};

struct Bf16 {
  using Stored = uint16_t;
  static Floats load(const uint16_t* from) {
#if defined(CPU_CAPABILITY_AVX512)
    const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
#elif defined(CPU_CAPABILITY_AVX2)
    const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
#else
    float values[kLanes];
    for (int64_t i = 0; i < kLanes; ++i) values[i] = std::bit_cast<float>(uint32_t{from[i]} << 16);
    return Floats::loadu(values);
#endif
  }
};

struct Fp16 {
  using Stored = uint16_t;
  static Floats load(const uint16_t* from) {
#if defined(CPU_CAPABILITY_AVX512)
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
#elif defined(CPU_CAPABILITY_AVX2)
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
#else
    // In a float's place the bits mean the value times 2^-112, below 2^-14 too.
    float values[kLanes];
    for (int64_t i = 0; i < kLanes; ++i) {
      const uint32_t magnitude = (from[i] & 0x7FFFU) << 13;
      const uint32_t special = (from[i] & 0x7C00U) == 0x7C00U ? 0x7F800000U : 0;
      const float scaled = std::bit_cast<float>(magnitude) * 0x1p112F;
      const uint32_t sign = (from[i] & 0x8000U) << 16;
      values[i] = std::bit_cast<float>(std::bit_cast<uint32_t>(scaled) | special | sign);
    }
    return Floats::loadu(values);
#endif
  }
};

/// The last, partly filled vector of a row, zeros behind it.
template <typename Type>
inline Floats load_tail(const typename Type::Stored* from, int64_t count) {
  typename Type::Stored filled[kLanes] = {};
  for (int64_t i = 0; i < count; ++i) filled[i] = from[i];
  return Type::load(filled);
}

template <typename Type>
inline float dot(const typename Type::Stored* weight, const float* x, int64_t columns) {
  Floats even(0.0F), odd(0.0F);
  int64_t i = 0;
  for (; i + 2 * kLanes <= columns; i += 2 * kLanes) {
    even = at::vec::fmadd(Type::load(weight + i), Floats::loadu(x + i), even);
    odd = at::vec::fmadd(Type::load(weight + i + kLanes), Floats::loadu(x + i + kLanes), odd);
  }
  if (i + kLanes <= columns) {
    even = at::vec::fmadd(Type::load(weight + i), Floats::loadu(x + i), even);
    i += kLanes;
  }
  if (i < columns) {
    const Floats last = load_tail<Type>(weight + i, columns - i);
    odd = at::vec::fmadd(last, load_tail<Fp32>(x + i, columns - i), odd);
  }
  return sum_of(even + odd);
}

template <typename Type>
inline void rows_of(const typename Type::Stored* weight, const float* x, float* y, int64_t rows,
                    int64_t columns) {
  for (int64_t k = 0; k < rows; ++k) y[k] = dot<Type>(weight + k * columns, x, columns);
}

__attribute__((flatten)) void rows_fp32(const float* weight, const float* x, float* y, int64_t rows,
                                        int64_t columns) {
  rows_of<Fp32>(weight, x, y, rows, columns);
}

__attribute__((flatten)) void rows_bf16(const uint16_t* weight, const float* x, float* y,
                                        int64_t rows, int64_t columns) {
  rows_of<Bf16>(weight, x, y, rows, columns);
}

__attribute__((flatten)) void rows_fp16(const uint16_t* weight, const float* x, float* y,
                                        int64_t rows, int64_t columns) {
  rows_of<Fp16>(weight, x, y, rows, columns);
}

/// sum_i q_i X_i from the sums of the three limbs.
inline int64_t from_limbs(int64_t low, int64_t middle, int64_t high) {
  return low + 128 * middle + 128 * 128 * high;
}

inline int64_t dot_plain(const uint8_t* q, const int8_t* limbs, int64_t stride, int64_t begin,
                         int64_t end) {
  int32_t sums[kFixedPointLimbs] = {};
  for (int limb = 0; limb < kFixedPointLimbs; ++limb) {
    const int8_t* x = limbs + limb * stride;
    for (int64_t i = begin; i < end; ++i) sums[limb] += int32_t{q[i]} * int32_t{x[i]};
  }
  return from_limbs(sums[0], sums[1], sums[2]);
}

#if defined(CPU_CAPABILITY_AVX512)

/// Columns [i, i + 64) of a row; zeros behind the end.
inline __m512i load_bytes(const uint8_t* q, int64_t i, int64_t columns) {
  if (i + 64 <= columns) return _mm512_loadu_si512(q + i);
  return _mm512_maskz_loadu_epi8(~uint64_t{0} >> (64 - (columns - i)), q + i);
}

inline int64_t add_up(__m512i low, __m512i middle, __m512i high) {
  return from_limbs(_mm512_reduce_add_epi32(low), _mm512_reduce_add_epi32(middle),
                    _mm512_reduce_add_epi32(high));
}

inline __m512i add_products(__m512i sum, __m512i q, const int8_t* x) {
  const __m512i pairs = _mm512_maddubs_epi16(q, _mm512_loadu_si512(x));
  return _mm512_add_epi32(sum, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
}

inline int64_t dot_bytes(const uint8_t* q, const int8_t* x, int64_t stride, int64_t columns) {
  __m512i low = _mm512_setzero_si512(), middle = low, high = low;
  for (int64_t i = 0; i < columns; i += 64) {
    const __m512i bytes = load_bytes(q, i, columns);
    low = add_products(low, bytes, x + i);
    middle = add_products(middle, bytes, x + stride + i);
    high = add_products(high, bytes, x + 2 * stride + i);
  }
  return add_up(low, middle, high);
}

__attribute__((target("avx512vnni"))) inline int64_t dot_bytes_vnni(const uint8_t* q,
                                                                    const int8_t* x, int64_t stride,
                                                                    int64_t columns) {
  __m512i low = _mm512_setzero_si512(), middle = low, high = low;
  for (int64_t i = 0; i < columns; i += 64) {
    const __m512i bytes = load_bytes(q, i, columns);
    low = _mm512_dpbusd_epi32(low, bytes, _mm512_loadu_si512(x + i));
    middle = _mm512_dpbusd_epi32(middle, bytes, _mm512_loadu_si512(x + stride + i));
    high = _mm512_dpbusd_epi32(high, bytes, _mm512_loadu_si512(x + 2 * stride + i));
  }
  return add_up(low, middle, high);
}

#elif defined(CPU_CAPABILITY_AVX2)

inline int32_t add_up(__m256i v) {
  int32_t lanes[8];
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(lanes), v);
  int32_t sum = 0;
  for (const int32_t lane : lanes) sum += lane;
  return sum;
}

inline __m256i add_products(__m256i sum, __m256i q, const int8_t* x) {
  const __m256i limb = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x));
  const __m256i pairs = _mm256_maddubs_epi16(q, limb);
  return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

inline int64_t dot_bytes(const uint8_t* q, const int8_t* x, int64_t stride, int64_t columns) {
  __m256i low = _mm256_setzero_si256(), middle = low, high = low;
  int64_t i = 0;
  for (; i + 32 <= columns; i += 32) {
    const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(q + i));
    low = add_products(low, bytes, x + i);
    middle = add_products(middle, bytes, x + stride + i);
    high = add_products(high, bytes, x + 2 * stride + i);
  }
  return from_limbs(add_up(low), add_up(middle), add_up(high)) +
         dot_plain(q, x, stride, i, columns);
}

#else

inline int64_t dot_bytes(const uint8_t* q, const int8_t* x, int64_t stride, int64_t columns) {
  return dot_plain(q, x, stride, 0, columns);
}

#endif

template <typename Dot>
inline void byte_rows(const ByteRows& in, Dot dot_row) {
  for (int64_t k = 0; k < in.rows; ++k) {
    const int64_t sum = dot_row(in.weight + k * in.columns, in.limbs, in.limb_stride, in.columns);
    const auto exact = static_cast<float>(in.step * (static_cast<double>(sum) + in.offset));
    in.y[k] = in.row_scale[k] * exact + (in.row_shift[k] * in.shift_factor + in.bias);
  }
}

__attribute__((flatten)) void rows_byte(const ByteRows& rows) { byte_rows(rows, dot_bytes); }

#if defined(CPU_CAPABILITY_AVX512)
__attribute__((flatten, target("avx512vnni"))) void rows_byte_vnni(const ByteRows& rows) {
  byte_rows(rows, dot_bytes_vnni);
}
constexpr auto kRowsByteVnni = rows_byte_vnni;
#else
constexpr void (*kRowsByteVnni)(const ByteRows&) = nullptr;
#endif

__attribute__((flatten)) FixedPointSums to_fixed_point(const float* x, int64_t count, int8_t* limbs,
                                                       int64_t limb_stride) {
  // As numbers, the bits of magnitudes are in the order of the magnitudes; infinity and NaN on top.
  uint32_t largest = 0;
  for (int64_t i = 0; i < count; ++i) {
    const uint32_t magnitude = std::bit_cast<uint32_t>(x[i]) & 0x7FFFFFFFU;
    largest = magnitude > largest ? magnitude : largest;
  }
  const bool finite = largest < 0x7F800000U;
  const float limit = finite ? std::bit_cast<float>(largest) : 0.0F;
  // Below 2^-90 the quotient could overflow: such a vector counts as zero.
  const bool is_zero = limit < 0x1p-90F;
  const float scale = is_zero ? 0.0F : static_cast<float>(kFixedPointMax) * kFixedPointFine / limit;
  FixedPointSums sums{0, 0, 0};
  for (int64_t i = 0; i < count; ++i) {
    // The product of two floats is exact in double, so it rounds alike with and without fused
    // operations. Adding 1.5 * 2^52 rounds to the nearest integer and leaves it in the low bits.
    const double shifted =
        static_cast<double>(finite ? x[i] : 0.0F) * static_cast<double>(scale) + 6755399441055744.0;
    const auto fine = static_cast<int32_t>(static_cast<uint32_t>(std::bit_cast<uint64_t>(shifted)));
    int32_t rest = (fine + kFixedPointFine / 2) >> 10;
    sums.fine += fine;
    sums.coarse += rest;
    for (int limb = 0; limb < kFixedPointLimbs; ++limb) {
      const int32_t digit = ((rest + 64) & 127) - 64;
      limbs[limb * limb_stride + i] = static_cast<int8_t>(digit);
      rest = (rest - digit) >> 7;
    }
  }
  sums.step = is_zero ? 0.0 : kFixedPointFine / static_cast<double>(scale);
  if (!finite) sums.step = __builtin_nan("");
  return sums;
}

/// Calls body(i, count) for each vector of [0, size); the last may be partly filled.
template <typename Body>
inline void each(int64_t size, Body body) {
  wkv_each_vector<Vec>(size, body);
}

inline Floats load(const float* from, int64_t count) { return WkvLanes<Vec>::load(from, count).x; }

inline void store(Floats v, float* to, int64_t count) { WkvLanes<Vec>::store(Vec(v), to, count); }

inline Floats sigmoid(Floats r) {
  const Vec e = exp_nonpositive(neg_abs(Vec(r)));
  const Floats one(1.0F);
  const Floats numerator = Floats::blendv(e.x, one, r >= Floats(0.0F));
  return numerator / (one + e.x);
}

__attribute__((flatten)) void norm_mix(const NormMixRow& row) {
  const auto size = static_cast<float>(row.channels);
  Floats sums(0.0F);
  each(row.channels, [&](int64_t i, int64_t count) { sums = sums + load(row.x + i, count); });
  const Floats mean(sum_of(sums) / size);
  Floats squares(0.0F);
  each(row.channels, [&](int64_t i, int64_t count) {
    const Floats d = count == kLanes
                         ? load(row.x + i, count) - mean
                         : Floats::set(Floats(0.0F), load(row.x + i, count) - mean, count);
    squares = at::vec::fmadd(d, d, squares);
  });
  const Floats scale(1.0F / __builtin_sqrtf(sum_of(squares) / size + 1e-5F));
  each(row.channels, [&](int64_t i, int64_t count) {
    const Floats normal = (load(row.x + i, count) - mean) * scale;
    const Floats z = at::vec::fmadd(normal, load(row.weight + i, count), load(row.bias + i, count));
    if (row.outputs > 0) {
      const Floats previous = load(row.previous + i, count);
      const Floats difference = z - previous;
      for (int n = 0; n < row.outputs; ++n) {
        store(at::vec::fmadd(load(row.mix[n] + i, count), difference, previous), row.out[n] + i,
              count);
      }
    }
    store(z, row.z + i, count);
  });
}

__attribute__((flatten)) void wkv(const WkvRow& row) {
  using L = WkvLanes<Vec>;
  const WkvSumsArrays<float> arrays{row.a, row.b, row.p, nullptr, nullptr};
  each(row.channels, [&](int64_t c, int64_t count) {
    auto sums = wkv_load_sums<Vec, false>(arrays, c, count);
    const Vec k = L::load(row.k + c, count), v = L::load(row.v + c, count);
    L::store(wkv_output(sums, L::load(row.u + c, count), k, v).y, row.y + c, count);
    wkv_update<false>(sums, L::load(row.w + c, count), k, v);
    wkv_store_sums<Vec, false>(sums, arrays, c, count);
  });
}

__attribute__((flatten)) void gate(const float* r, float* y, int64_t size) {
  each(size, [&](int64_t i, int64_t count) {
    store(load(y + i, count) * sigmoid(load(r + i, count)), y + i, count);
  });
}

__attribute__((flatten)) void relu_square(float* k, int64_t size) {
  each(size, [&](int64_t i, int64_t count) {
    const Floats positive = at::vec::clamp_min(load(k + i, count), Floats(0.0F));
    store(positive * positive, k + i, count);
  });
}

__attribute__((flatten)) void add(float* x, const float* y, float scale, int64_t size) {
  each(size, [&](int64_t i, int64_t count) {
    store(at::vec::fmadd(load(y + i, count), Floats(scale), load(x + i, count)), x + i, count);
  });
}

__attribute__((flatten)) void add_gated(float* x, const float* r, const float* y, float scale,
                                        int64_t size) {
  each(size, [&](int64_t i, int64_t count) {
    const Floats gated = load(y + i, count) * sigmoid(load(r + i, count));
    store(at::vec::fmadd(gated, Floats(scale), load(x + i, count)), x + i, count);
  });
}

__attribute__((flatten)) float sum(const float* x, int64_t size) {
  Floats even(0.0F), odd(0.0F);
  int64_t i = 0;
  for (; i + 2 * kLanes <= size; i += 2 * kLanes) {
    even = even + Floats::loadu(x + i);
    odd = odd + Floats::loadu(x + i + kLanes);
  }
  float rest = 0;
  for (; i < size; ++i) rest += x[i];
  return sum_of(even + odd) + rest;
}

__attribute__((flatten)) void scale_and_sum(const float* x, const float* scale, const float* shift,
                                            float* z, int64_t size, float* sums) {
  Floats of_x(0.0F), of_shifts(0.0F);
  each(size, [&](int64_t i, int64_t count) {
    const Floats values = load(x + i, count);
    of_x = of_x + values;
    of_shifts = at::vec::fmadd(values, load(shift + i, count), of_shifts);
    store(values * load(scale + i, count), z + i, count);
  });
  sums[0] = sum_of(of_x);
  sums[1] = sum_of(of_shifts);
}

__attribute__((flatten)) void scale_and_shift(const float* x, const float* scale,
                                              const float* shift, float* z, int64_t size) {
  each(size, [&](int64_t i, int64_t count) {
    store(at::vec::fmadd(load(x + i, count), load(scale + i, count), load(shift + i, count)), z + i,
          count);
  });
}

}  // namespace

const InferenceKernels RWKV_INFERENCE_KERNELS{
    rows_fp32, rows_bf16,     rows_fp16,      rows_byte,   kRowsByteVnni, to_fixed_point,
    norm_mix,  wkv,           gate,           relu_square, add,           add_gated,
    sum,       scale_and_sum, scale_and_shift};

}  // namespace rwkv::ops
