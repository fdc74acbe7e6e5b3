#pragma once

#include <ATen/core/Tensor.h>

namespace rwkv::model {

/// A matrix as unsigned bytes [out,in] with float32 vectors. Both schemes multiply with one loop
/// over bytes and a few numbers for each row and column.
struct ByteWeights {
  at::Tensor q;             ///< uint8 [out,in]
  at::Tensor column_scale;  ///< [in]
  at::Tensor column_shift;  ///< [in]
  at::Tensor row_scale;     ///< [out]
  at::Tensor row_shift;     ///< [out]
};

/// The `rwkv` package's i8 (ChatRWKV `rwkv_pip_package/src/rwkv/model.py`), with its arithmetic
/// step by step, so the bytes are equal. For output k and input j
///   W_kj ~ (q_kj + 1/2) ry_j rx_k + my_j + mx_k
/// with column_scale = ry, column_shift = my, row_scale = rx, row_shift = mx. A constant row or
/// column has the range 1 instead of 0. weight: float32 [out,in].
ByteWeights quantise_i8(const at::Tensor& weight);
/// The matrix that those bytes stand for, float32; of rows [begin, end) only.
at::Tensor dequantise_i8(const ByteWeights& weights, int64_t begin, int64_t end);

/// i8-seed: RWKV-LM's README writes a matrix with outliers as M = diag(b) Q diag(a), so that
///   M v = (Q (v * a + aa)) * b + bb,    bb = -b * (Q aa)
/// with Q = (q - 128) / 127 in -1..1 and column_scale = a, column_shift = aa, row_scale = b,
/// row_shift = bb. The shift aa moves v * a to the middle of its range before it is rounded;
/// without rounding it changes nothing.
///
/// a and b come from alternating a_j = max_i |M_ij| / b_i and b_i = max_j |M_ij| / a_j; aa = 0.
/// weight: float32 [out,in].
ByteWeights quantise_seed(const at::Tensor& weight);
/// The same, improved for `samples` [T,in] of the inputs v: scales that leave less error where
/// inputs are large, rows whose outliers are cut where that helps, b by least squares, and aa. The
/// squared error of the samples' outputs, summed, is never above that of quantise_seed(weight).
ByteWeights quantise_seed(const at::Tensor& weight, const at::Tensor& samples);
/// Q diag(a), diag(b): the matrix that those bytes stand for, float32; rows [begin, end) only.
at::Tensor dequantise_seed(const ByteWeights& weights, int64_t begin, int64_t end);

}  // namespace rwkv::model
