#pragma once

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <cstdint>
#include <type_traits>
#include <vector>

#include "cuda/rows.h"
#include "cuda/wkv4_step.h"

namespace rwkv::ops {

/// Type of the arithmetic for rows stored as `S`: float, or double for double.
template <typename S>
using RowMath = WkvMath<S>;

/// The widest kernels that this processor runs.
template <typename T>
const RowKernels<T>& row_kernels();
template <>
const RowKernels<float>& row_kernels<float>();
template <>
const RowKernels<double>& row_kernels<double>();

// Conversions of 16-bit storage; narrowing goes to nearest, ties to even.
void widen(const at::BFloat16* from, float* to, int64_t n);
void widen(const at::Half* from, float* to, int64_t n);
void narrow(const float* from, at::BFloat16* to, int64_t n);
void narrow(const float* from, at::Half* to, int64_t n);

/// One row of a tensor stored as `S`, in the type of the arithmetic: the row itself where both are
/// the same, else a buffer that stays in the first cache.
template <typename S>
class StagedRow {
 public:
  using T = RowMath<S>;
  static constexpr bool kDirect = std::is_same_v<S, T>;

  explicit StagedRow(int64_t n) : buffer_(kDirect ? 0 : static_cast<size_t>(n)), n_(n) {}

  const T* read(const S* row) {
    if constexpr (kDirect) {
      return row;
    } else {
      widen(row, buffer_.data(), n_);
      return buffer_.data();
    }
  }
  /// Where the values of `row` are to be written, before write(row).
  T* target(S* row) {
    if constexpr (kDirect) {
      return row;
    } else {
      return buffer_.data();
    }
  }
  void write(S* row) const {
    if constexpr (!kDirect) narrow(buffer_.data(), row, n_);
  }

 private:
  std::vector<T> buffer_;
  int64_t n_;
};

}  // namespace rwkv::ops
