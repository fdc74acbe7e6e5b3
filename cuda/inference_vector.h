#pragma once

#include <cstdint>

namespace rwkv::ops {

/// A vector as fixed-point numbers for products with 8-bit weights: x_i = step * X_i with X_i = l0
/// + 128 l1 + 128^2 l2. The limbs are signed, -64..63, so that no pair of products with a byte
/// leaves 16 bits, where AVX2 saturates. The step is the smallest for which all |X_i| <=
/// kFixedPointMax, so the largest has 20 bits.
inline constexpr int kFixedPointLimbs = 3;
inline constexpr int32_t kFixedPointMax = 63 * (1 + 128 + 128 * 128);
/// The sum of x is kept in finer steps: step / kFixedPointFine.
inline constexpr int32_t kFixedPointFine = 1024;
/// Rows of limbs are padded with zeros to a multiple of this.
inline constexpr int64_t kFixedPointPadding = 64;

struct FixedPointSums {
  int64_t coarse;  ///< sum_i X_i
  int64_t fine;    ///< sum_i x_i in steps of step / kFixedPointFine
  double step;     ///< NaN unless all of x is finite
};

/// Rows of 8-bit weights times a fixed-point vector:
///   y_k = row_scale_k * step * (sum_i q_ki X_i + offset) + row_shift_k * shift_factor + bias
/// The sum is exact, so every instruction set gives the same bits.
struct ByteRows {
  const uint8_t* weight;  ///< [rows, columns]
  const int8_t* limbs;    ///< [kFixedPointLimbs, limb_stride]
  int64_t limb_stride;
  int64_t rows, columns;
  double step, offset;
  const float* row_scale;  ///< [rows]
  const float* row_shift;  ///< [rows]
  float shift_factor, bias;
  float* y;  ///< [rows]
};

/// One token's layer norm and its mixtures with the token before:
///   z = (x - mean) / sqrt(variance + 1e-5) * weight + bias;  out_i = previous + mix_i (z -
///   previous)
struct NormMixRow {
  const float* x;
  const float *weight, *bias;
  const float* previous;  ///< may be z
  float* z;
  const float* mix[3];
  float* out[3];
  int outputs;  ///< 0..3
  int64_t channels;
};

/// One token of WKV-4, see wkv4_step.h; a, b, p are replaced. `w` is -exp(time_decay).
struct WkvRow {
  const float *w, *u, *k, *v;
  float *a, *b, *p, *y;
  int64_t channels;
};

/// The loops of inference as one instruction set runs them. All are leaf functions on raw pointers
/// without alignment. rows_*: y_k = sum_i weight[k, i] x_i, each row added up in an order of its
/// own, so that the result does not depend on how rows are shared out among threads.
struct InferenceKernels {
  void (*rows_fp32)(const float* weight, const float* x, float* y, int64_t rows, int64_t columns);
  void (*rows_bf16)(const uint16_t* weight, const float* x, float* y, int64_t rows,
                    int64_t columns);
  void (*rows_fp16)(const uint16_t* weight, const float* x, float* y, int64_t rows,
                    int64_t columns);
  void (*rows_byte)(const ByteRows& rows);
  void (*rows_byte_vnni)(const ByteRows& rows);  ///< null without AVX-512 VNNI code
  /// x in fixed point.
  FixedPointSums (*to_fixed_point)(const float* x, int64_t count, int8_t* limbs,
                                   int64_t limb_stride);
  void (*norm_mix)(const NormMixRow& row);
  void (*wkv)(const WkvRow& row);
  void (*gate)(const float* r, float* y, int64_t count);              ///< y *= sigmoid(r)
  void (*relu_square)(float* k, int64_t count);                       ///< k = max(k, 0)^2
  void (*add)(float* x, const float* y, float scale, int64_t count);  ///< x += scale y
  /// x += scale sigmoid(r) y
  void (*add_gated)(float* x, const float* r, const float* y, float scale, int64_t count);
  float (*sum)(const float* x, int64_t count);
  /// z = x scale; sums[0] = sum x, sums[1] = sum x shift.
  void (*scale_and_sum)(const float* x, const float* scale, const float* shift, float* z,
                        int64_t count, float* sums);
  /// z = x scale + shift
  void (*scale_and_shift)(const float* x, const float* scale, const float* shift, float* z,
                          int64_t count);
};

extern const InferenceKernels kInferenceKernelsDefault;
extern const InferenceKernels kInferenceKernelsAvx2;    ///< x86-64 builds only
extern const InferenceKernels kInferenceKernelsAvx512;  ///< x86-64 builds only

}  // namespace rwkv::ops
