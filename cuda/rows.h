#pragma once

#include <cstdint>

namespace rwkv::ops {

// What the operators do to one row of C channels (or V logits), as leaf functions on raw pointers.
// A row stays in the first cache, so an operator made of several of them still reads and writes
// each tensor once. T is the type of the arithmetic: float, or double for double tensors.

/// Largest number of mixes that share one norm and one shift: key, value and receptance.
inline constexpr int64_t kMaxMixes = 3;

/// Mean and 1 / sqrt(variance + eps) of a row.
template <typename T>
struct RowMoments {
  T mean, rstd;
};

/// out_i = shifted + mix_i (z - shifted) for i < mixes.
template <typename T>
struct MixRow {
  int64_t channels, mixes;
  const T *z, *shifted;
  const T* mix[kMaxMixes] = {};
  T* out[kMaxMixes] = {};
};

/// gz = later + sum_i mix_i g_i;  later = sum_i (1 - mix_i) g_i;  gmix_i += g_i (z - shifted).
template <typename T>
struct MixBackwardRow {
  int64_t channels, mixes;
  const T *z, *shifted;
  const T* mix[kMaxMixes] = {};
  const T* g[kMaxMixes] = {};
  T* later;  ///< what the next row passed to this one's z; on return what this row passes back
  T* gz;
  T* gmix[kMaxMixes] = {};
};

/// Gradients of z = (x - mean) rstd weight + bias. gx = that of x, plus g_sum where it is not null;
/// gweight and gbias are added to.
template <typename T>
struct NormBackwardRow {
  int64_t channels;
  const T* x;
  RowMoments<T> moments;
  const T *weight, *gz, *g_sum;
  T *gx, *gweight, *gbias;
};

/// A row of logits, which becomes its own gradient:
///   weight (softmax - onehot(target)), and l2wrap * max added at the first largest logit.
template <typename T>
struct CrossEntropyRow {
  int64_t size, target;
  T weight, l2wrap;
  bool gradient;  ///< false: the row is only read
  T* logits;
};

template <typename T>
struct RowKernels {
  void (*add)(const T* x, const T* y, T* sum, int64_t n);
  void (*moments)(const T* x, int64_t n, T eps, RowMoments<T>* result);
  void (*affine)(const T* x, const RowMoments<T>* moments, const T* weight, const T* bias, T* z,
                 int64_t n);
  void (*mix)(const MixRow<T>& row);
  void (*mix_backward)(const MixBackwardRow<T>& row);
  void (*norm_backward)(const NormBackwardRow<T>& row);
  /// y = max(x, 0)^2
  void (*relu_square)(const T* x, T* y, int64_t n);
  /// y = max(x, 0)^2 and g = 2 max(x, 0) g
  void (*relu_square_backward)(const T* x, T* g, T* y, int64_t n);
  /// out = x + sigmoid(r) v
  void (*gate_residual)(const T* x, const T* r, const T* v, T* out, int64_t n);
  void (*gate_residual_backward)(const T* g, const T* r, const T* v, T* gr, T* gv, int64_t n);
  /// Returns log(sum(exp(logits))) - logits[target].
  T (*cross_entropy)(const CrossEntropyRow<T>& row);
};

extern const RowKernels<float> kRowKernelsDefault;
extern const RowKernels<double> kRowKernelsDouble;
extern const RowKernels<float> kRowKernelsAvx2;    ///< x86-64 builds only
extern const RowKernels<float> kRowKernelsAvx512;  ///< x86-64 builds only

}  // namespace rwkv::ops
