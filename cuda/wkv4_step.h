#pragma once

#include <cmath>

// The formulas of the WKV-4 operator, once for all: scalar code, vector code, device code and tests
// call these templates. `V` is float, double or a vector of floats that brings its own
// exp_nonpositive, neg_abs, min_zero,
// max_of and select_ge (found by argument-dependent lookup).
//
// Per channel, with decay w = -exp(time_decay) < 0, bonus u and sums A_0 = B_0 = 0:
//   y_t = (A_t + e^{u+k_t} v_t) / (B_t + e^{u+k_t})
//   A_{t+1} = e^w A_t + e^{k_t} v_t        B_{t+1} = e^w B_t + e^{k_t}
// A and B overflow, so they are kept as A = a e^p, B = b e^p.
// Source: BlinkDL/RWKV-LM, RWKV-v4neo/cuda/wkv_cuda.cu; here each pair of exponentials, one of
// which is exp(0), is replaced by one exponential and a selection.

#if defined(__CUDACC__)
#define WKV_HD __host__ __device__
#else
#define WKV_HD
#endif

namespace rwkv::ops {

/// Exponent of an empty sum: finite, because -inf minus -inf is not a number.
inline constexpr float kWkvEmptyExponent = -1e38F;

/// Type of the arithmetic, the state and the checkpoints for keys stored as `S`.
template <typename S>
struct WkvMathOf {
  using Type = float;
};
template <>
struct WkvMathOf<double> {
  using Type = double;
};
template <typename S>
using WkvMath = typename WkvMathOf<S>::Type;

WKV_HD inline float exp_nonpositive(float x) { return std::exp(x); }
WKV_HD inline double exp_nonpositive(double x) { return std::exp(x); }
WKV_HD inline float neg_abs(float x) { return -std::abs(x); }
WKV_HD inline double neg_abs(double x) { return -std::abs(x); }
WKV_HD inline float max_of(float x, float y) { return x >= y ? x : y; }
WKV_HD inline double max_of(double x, double y) { return x >= y ? x : y; }
WKV_HD inline float min_zero(float x) { return x > 0 ? 0.0F : x; }
WKV_HD inline double min_zero(double x) { return x > 0 ? 0.0 : x; }

/// w = -exp(time_decay), for float and double: 16 bits cannot hold exp(w) near 1. Bounded, so that
/// products with an empty sum stay 0 and not NaN.
template <typename M>
WKV_HD inline M wkv_decay(M time_decay) {
  const M decay = -std::exp(time_decay);
  return decay < M(-1e30) ? M(-1e30) : decay;
}

/// Two weights exp(x - max(x, y)) and exp(y - max(x, y)); one of them is exactly 1.
template <typename V>
struct WkvWeights {
  V of_x, of_y;
};

WKV_HD inline WkvWeights<float> select_ge(float difference, float e) {
  return difference >= 0 ? WkvWeights<float>{1, e} : WkvWeights<float>{e, 1};
}
WKV_HD inline WkvWeights<double> select_ge(double difference, double e) {
  return difference >= 0 ? WkvWeights<double>{1, e} : WkvWeights<double>{e, 1};
}

template <typename V>
WKV_HD inline WkvWeights<V> wkv_weights(V x, V y) {
  const V difference = x - y;
  return select_ge(difference, exp_nonpositive(neg_abs(difference)));
}

/// 1 / (1 + exp(-x)), the gate.
template <typename V>
WKV_HD inline V wkv_sigmoid(V x) {
  const WkvWeights<V> e = select_ge(x, exp_nonpositive(neg_abs(x)));
  return e.of_x / (e.of_x + e.of_y);
}

/// A gated output s y and dL/dr, from the gradient g of the gated output; dL/dy is g s.
template <typename V>
struct WkvGate {
  V s, out, gr;
};

template <typename V>
WKV_HD inline WkvGate<V> wkv_gate_backward(V r, V y, V g) {
  const V s = wkv_sigmoid(r);
  const V out = s * y;
  return {s, out, g * out * (V(1) - s)};
}

/// Sums of the tokens so far: A = a e^p, B = b e^p, and their derivatives by w, A' = da e^p, B' =
/// db e^p.
template <typename V>
struct WkvSums {
  V a, b, p, da, db;

  WKV_HD static WkvSums empty() { return {V(0), V(0), V(kWkvEmptyExponent), V(0), V(0)}; }
};

/// What one token's output needs and what its backward step reuses.
template <typename V>
struct WkvOutput {
  V y;
  V m;            ///< max(p, u + k), the exponent of the denominator
  V inv_den;      ///< 1 / (B + e^{u+k}) on the scale e^m
  V past, token;  ///< e^{p-m} and e^{u+k-m}
};

/// The output of one token, from the sums before it.
template <typename V>
WKV_HD inline WkvOutput<V> wkv_output(const WkvSums<V>& sums, V u, V k, V v) {
  const V s = u + k;
  const WkvWeights<V> e = wkv_weights(sums.p, s);
  const V inv_den = V(1) / (e.of_x * sums.b + e.of_y);
  return {(e.of_x * sums.a + e.of_y * v) * inv_den, max_of(sums.p, s), inv_den, e.of_x, e.of_y};
}

/// Adds one token to the sums. `Derivatives` also carries da and db, which only training needs.
template <bool Derivatives, typename V>
WKV_HD inline void wkv_update(WkvSums<V>& sums, V w, V k, V v) {
  const V q = sums.p + w;
  const WkvWeights<V> f = wkv_weights(q, k);
  if constexpr (Derivatives) {
    sums.da = f.of_x * (sums.da + sums.a);
    sums.db = f.of_x * (sums.db + sums.b);
  }
  sums.a = f.of_x * sums.a + f.of_y * v;
  sums.b = f.of_x * sums.b + f.of_y;
  sums.p = max_of(q, k);
}

/// What one token adds to dL/dw and dL/du.
template <typename V>
struct WkvParameterGradient {
  V w, u;
};

/// h (A' - y B') and h e^{u+k} (v - y) with h = dL/dy / D, from the sums before the token. `q` is
/// dL/dy / denominator and `direct` is q e^{u+k-m}, as in wkv_backward_step.
template <typename V>
WKV_HD inline WkvParameterGradient<V> wkv_parameter_gradient(const WkvSums<V>& sums,
                                                             const WkvOutput<V>& out, V q, V direct,
                                                             V v) {
  return {q * out.past * (sums.da - out.y * sums.db), direct * (v - out.y)};
}

/// The sums of a stretch `x` followed by a stretch `z` of `tokens_z` tokens that started empty.
template <typename V>
WKV_HD inline WkvSums<V> wkv_combine(const WkvSums<V>& x, const WkvSums<V>& z, V tokens_z, V w) {
  const V q = x.p + tokens_z * w;
  const WkvWeights<V> f = wkv_weights(q, z.p);
  return {f.of_x * x.a + f.of_y * z.a, f.of_x * x.b + f.of_y * z.b, max_of(q, z.p),
          f.of_x * (x.da + tokens_z * x.a) + f.of_y * z.da,
          f.of_x * (x.db + tokens_z * x.b) + f.of_y * z.db};
}

/// Gradients of the sums after a token: dL/dA = x e^o, dL/dB = z e^o.
template <typename V>
struct WkvAdjoint {
  V x, z, o;

  WKV_HD static WkvAdjoint empty() { return {V(0), V(0), V(kWkvEmptyExponent)}; }
};

/// Gradients of the sums `a`, `b` and their exponent `p`.
template <typename V>
struct WkvSumsGradient {
  V a, b, p;
};

/// From dL/dA and dL/dB: ga = x e^{o+p}, gb = z e^{o+p}, gp = a ga + b gb.
template <typename V>
WKV_HD inline WkvSumsGradient<V> wkv_sums_gradient(const WkvAdjoint<V>& adjoint, V a, V b, V p) {
  const V scale = exp_nonpositive(min_zero(adjoint.o + p));
  const V ga = adjoint.x * scale;
  const V gb = adjoint.z * scale;
  return {ga, gb, a * ga + b * gb};
}

/// Gradients of one token's key and value.
template <typename V>
struct WkvTokenGradient {
  V k, v;
};

/// One step backwards over a token with key k, value v, output y and maximum m (of WkvOutput).
/// `q` is dL/dy / denominator and `direct` is q e^{u+k-m}; `adjoint` moves from after to before the
/// token.
template <typename V>
WKV_HD inline WkvTokenGradient<V> wkv_backward_step(WkvAdjoint<V>& adjoint, V w, V k, V v, V y, V m,
                                                    V q, V direct) {
  // k + o <= 0 holds exactly; rounding may push it above, and exp_nonpositive takes no such
  // argument.
  const V later = exp_nonpositive(min_zero(k + adjoint.o));
  const WkvTokenGradient<V> gradient{direct * (v - y) + later * (adjoint.x * v + adjoint.z),
                                     direct + later * adjoint.x};
  const V r = adjoint.o + w;
  const WkvWeights<V> f = wkv_weights(r, -m);
  const V weight = f.of_y * q;
  adjoint.x = f.of_x * adjoint.x + weight;
  adjoint.z = f.of_x * adjoint.z - weight * y;
  adjoint.o = max_of(r, -m);
  return gradient;
}

}  // namespace rwkv::ops
