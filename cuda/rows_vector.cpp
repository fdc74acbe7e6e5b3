// Compiled once per instruction set; RWKV_ROW_KERNELS names the table of each. As wkv4_vector.cpp,
// this file must emit no weak function: everything but the tables has internal linkage, and is
// inlined into the functions of the tables.
#include <cmath>
#include <type_traits>

#include "cuda/rows.h"

#define RWKV_INLINE __attribute__((always_inline)) static inline
#define RWKV_ENTRY __attribute__((flatten)) static

namespace rwkv::ops {
namespace {

/// 64 bytes of T: one AVX-512 register, or as many smaller ones as that takes. So sums over a row
/// have the same order with every instruction set.
template <typename T>
struct LanesOf {
  using Type __attribute__((vector_size(64))) = T;
};
template <typename T>
using Lanes = typename LanesOf<T>::Type;
template <typename T>
constexpr int64_t kLanes = 64 / sizeof(T);

template <typename V, typename T>
RWKV_INLINE V load(const T* from) {
  V v;
  __builtin_memcpy(&v, from, sizeof(V));
  return v;
}
template <typename V, typename T>
RWKV_INLINE void store(const V& v, T* to) {
  __builtin_memcpy(to, &v, sizeof(V));
}

/// Calls body<V>(i) for every vector of n elements, V = Lanes<T>, and for every one that is left,
/// V = T.
template <typename T, typename Body>
RWKV_INLINE void each(int64_t n, const Body& body) {
  int64_t i = 0;
  for (; i + kLanes<T> <= n; i += kLanes<T>) body.template operator()<Lanes<T>>(i);
  for (; i < n; ++i) body.template operator()<T>(i);
}

/// A sum over a row: lane by lane, then over the lanes in pairs.
template <typename T>
struct Sum {
  Lanes<T> lanes{};
  T rest{};

  __attribute__((always_inline)) void add(const Lanes<T>& v) { lanes += v; }
  __attribute__((always_inline)) void add(const T& v) { rest += v; }
  __attribute__((always_inline)) [[nodiscard]] T total() const {
    T parts[kLanes<T>];
    __builtin_memcpy(parts, &lanes, sizeof(parts));
    for (int64_t width = kLanes<T> / 2; width > 0; width /= 2) {
      for (int64_t i = 0; i < width; ++i) parts[i] += parts[i + width];
    }
    return parts[0] + rest;
  }
};

template <typename V, typename T>
RWKV_INLINE V broadcast(T x) {
  return V{} + x;
}

/// exp(x) for x <= 0; exactly 0 below -88 (float). The method is that of wkv4_vector.cpp.
RWKV_INLINE double exp_nonpositive(double x) { return std::exp(x); }
template <typename V>
RWKV_INLINE V exp_by_polynomial(V x) {
  using Int = std::conditional_t<std::is_same_v<V, float>, int32_t, Lanes<int32_t>>;
  const V low = broadcast<V>(-88.02F);
  x = x < low ? low : x;
  const V magic = broadcast<V>(12582912.0F + 127.0F);
  const V shifted = x * 1.44269504F + magic;
  const V n = shifted - magic;
  const V r = x - n * 0.693147182F;
  V poly = r * 8.31252014e-3F + 4.18901568e-2F;
  poly = poly * r + 1.66671146e-1F;
  poly = poly * r + 4.99992315e-1F;
  poly = poly * r + 1.0F;
  poly = poly * r + 1.0F;
  return poly * __builtin_bit_cast(V, __builtin_bit_cast(Int, shifted) << 23);
}
RWKV_INLINE float exp_nonpositive(float x) { return exp_by_polynomial(x); }
RWKV_INLINE Lanes<float> exp_nonpositive(const Lanes<float>& x) { return exp_by_polynomial(x); }
RWKV_INLINE Lanes<double> exp_nonpositive(const Lanes<double>& x) {
  Lanes<double> y{};
  for (int64_t i = 0; i < kLanes<double>; ++i) y[i] = std::exp(x[i]);
  return y;
}

template <typename T, typename V>
RWKV_INLINE V sigmoid(const V& x) {
  const V zero{};
  const V one = broadcast<V>(T(1));
  const V e = exp_nonpositive(V(x < zero ? x : -x));
  return (x < zero ? e : one) / (one + e);
}

template <typename T>
RWKV_ENTRY void add(const T* x, const T* y, T* sum, int64_t n) {
  each<T>(n, [&]<typename V>(int64_t i) { store(V(load<V>(x + i) + load<V>(y + i)), sum + i); });
}

/// Two passes: a variance from sums of squares would lose the digits of a large mean.
template <typename T>
RWKV_ENTRY void moments(const T* x, int64_t n, T eps, RowMoments<T>* result) {
  Sum<T> sum;
  each<T>(n, [&]<typename V>(int64_t i) { sum.add(load<V>(x + i)); });
  const T mean = sum.total() / static_cast<T>(n);
  Sum<T> squares;
  each<T>(n, [&]<typename V>(int64_t i) {
    const V d = load<V>(x + i) - mean;
    squares.add(V(d * d));
  });
  *result = {mean, T(1) / std::sqrt(squares.total() / static_cast<T>(n) + eps)};
}

template <typename T>
RWKV_ENTRY void affine(const T* x, const RowMoments<T>* at, const T* weight, const T* bias, T* z,
                       int64_t n) {
  const T mean = at->mean, rstd = at->rstd;
  each<T>(n, [&]<typename V>(int64_t i) {
    store(V((load<V>(x + i) - mean) * rstd * load<V>(weight + i) + load<V>(bias + i)), z + i);
  });
}

template <typename T>
RWKV_ENTRY void mix(const MixRow<T>& row) {
  each<T>(row.channels, [&]<typename V>(int64_t c) {
    const V shifted = load<V>(row.shifted + c);
    const V change = load<V>(row.z + c) - shifted;
    for (int64_t i = 0; i < row.mixes; ++i) {
      store(V(shifted + load<V>(row.mix[i] + c) * change), row.out[i] + c);
    }
  });
}

template <typename T>
RWKV_ENTRY void mix_backward(const MixBackwardRow<T>& row) {
  each<T>(row.channels, [&]<typename V>(int64_t c) {
    const V change = load<V>(row.z + c) - load<V>(row.shifted + c);
    V here = load<V>(row.later + c);
    V before{};
    for (int64_t i = 0; i < row.mixes; ++i) {
      const V g = load<V>(row.g[i] + c);
      const V mixed = load<V>(row.mix[i] + c) * g;
      here += mixed;
      before += g - mixed;
      store(V(load<V>(row.gmix[i] + c) + g * change), row.gmix[i] + c);
    }
    store(here, row.gz + c);
    store(before, row.later + c);
  });
}

template <typename T>
RWKV_ENTRY void norm_backward(const NormBackwardRow<T>& row) {
  const T mean = row.moments.mean, rstd = row.moments.rstd;
  Sum<T> sum, sum_with_x;
  each<T>(row.channels, [&]<typename V>(int64_t c) {
    const V x = (load<V>(row.x + c) - mean) * rstd;
    const V gz = load<V>(row.gz + c);
    const V g = gz * load<V>(row.weight + c);
    sum.add(g);
    sum_with_x.add(V(g * x));
    store(V(load<V>(row.gweight + c) + gz * x), row.gweight + c);
    store(V(load<V>(row.gbias + c) + gz), row.gbias + c);
  });
  const T mean_g = sum.total() / static_cast<T>(row.channels);
  const T mean_gx = sum_with_x.total() / static_cast<T>(row.channels);
  each<T>(row.channels, [&]<typename V>(int64_t c) {
    const V x = (load<V>(row.x + c) - mean) * rstd;
    V g = (load<V>(row.gz + c) * load<V>(row.weight + c) - mean_g - x * mean_gx) * rstd;
    if (row.g_sum != nullptr) g += load<V>(row.g_sum + c);
    store(g, row.gx + c);
  });
}

/// NaN stays NaN, as in at::relu.
template <typename T, typename V>
RWKV_INLINE V relu(const V& x) {
  const V zero{};
  return x < zero ? zero : x;
}

template <typename T>
RWKV_ENTRY void relu_square(const T* x, T* y, int64_t n) {
  each<T>(n, [&]<typename V>(int64_t i) {
    const V h = relu<T>(load<V>(x + i));
    store(V(h * h), y + i);
  });
}

template <typename T>
RWKV_ENTRY void relu_square_backward(const T* x, T* g, T* y, int64_t n) {
  each<T>(n, [&]<typename V>(int64_t i) {
    const V h = relu<T>(load<V>(x + i));
    store(V(h * h), y + i);
    store(V((h + h) * load<V>(g + i)), g + i);
  });
}

template <typename T>
RWKV_ENTRY void gate_residual(const T* x, const T* r, const T* v, T* out, int64_t n) {
  each<T>(n, [&]<typename V>(int64_t i) {
    store(V(load<V>(x + i) + sigmoid<T>(load<V>(r + i)) * load<V>(v + i)), out + i);
  });
}

template <typename T>
RWKV_ENTRY void gate_residual_backward(const T* g, const T* r, const T* v, T* gr, T* gv,
                                       int64_t n) {
  each<T>(n, [&]<typename V>(int64_t i) {
    const V s = sigmoid<T>(load<V>(r + i));
    const V gs = load<V>(g + i) * s;
    store(gs, gv + i);
    store(V(gs * (T(1) - s) * load<V>(v + i)), gr + i);
  });
}

template <typename T>
RWKV_INLINE T largest(const T* x, int64_t n) {
  Lanes<T> lanes = broadcast<Lanes<T>>(x[0]);
  T rest = x[0];
  int64_t i = 0;
  for (; i + kLanes<T> <= n; i += kLanes<T>) {
    const auto v = load<Lanes<T>>(x + i);
    lanes = v > lanes ? v : lanes;
  }
  for (; i < n; ++i) rest = x[i] > rest ? x[i] : rest;
  for (int64_t lane = 0; lane < kLanes<T>; ++lane) rest = lanes[lane] > rest ? lanes[lane] : rest;
  return rest;
}

template <typename T>
RWKV_ENTRY T cross_entropy(const CrossEntropyRow<T>& row) {
  T* const x = row.logits;
  const T max = largest(x, row.size);
  const T own = x[row.target];
  int64_t first = 0;
  if (row.gradient && row.l2wrap != 0) {
    while (first + 1 < row.size && x[first] != max) ++first;
  }
  Sum<T> sum;
  each<T>(row.size, [&]<typename V>(int64_t i) {
    const V e = exp_nonpositive(V(load<V>(x + i) - max));
    sum.add(e);
    if (row.gradient) store(e, x + i);
  });
  const T total = sum.total();
  if (row.gradient) {
    const T scale = row.weight / total;
    each<T>(row.size, [&]<typename V>(int64_t i) { store(V(load<V>(x + i) * scale), x + i); });
    x[row.target] -= row.weight;
    if (row.l2wrap != 0) x[first] += row.l2wrap * max;
  }
  return max - own + std::log(total);
}

template <typename T>
constexpr RowKernels<T> kTable{add<T>,           moments<T>,
                               affine<T>,        mix<T>,
                               mix_backward<T>,  norm_backward<T>,
                               relu_square<T>,   relu_square_backward<T>,
                               gate_residual<T>, gate_residual_backward<T>,
                               cross_entropy<T>};

}  // namespace

extern const RowKernels<float> RWKV_ROW_KERNELS = kTable<float>;
#if defined(RWKV_ROW_KERNELS_DOUBLE)
extern const RowKernels<double> kRowKernelsDouble = kTable<double>;
#endif

}  // namespace rwkv::ops
