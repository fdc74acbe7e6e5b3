#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

// Operators of inference on the CPU, on raw float32 rows without alignment. A step of one token is
// bound by reading the weights once: matvec() does that at the rate at which memory can be read, on
// LibTorch's threads. The results are the same for any number of threads. Callers vouch for the
// sizes; counts and types are checked.

namespace rwkv::ops {

/// How the weights of a matrix-vector product are stored.
enum class WeightType : uint8_t { kFp32, kBf16, kFp16, kByte };

/// A vector in fixed point (20 bits and a sign at its largest magnitude), as products with bytes
/// take it.
class FixedPoint {
 public:
  /// x: `count` floats, at most kMaxColumns.
  void assign(const float* x, int64_t count);

  /// Where the sums of 32 bits end.
  static constexpr int64_t kMaxColumns = 131072;

  [[nodiscard]] const int8_t* limbs() const { return limbs_.data(); }
  [[nodiscard]] int64_t stride() const { return stride_; }
  [[nodiscard]] int64_t count() const { return count_; }
  [[nodiscard]] double step() const { return step_; }
  [[nodiscard]] int64_t sum() const { return sum_; }     ///< of the fixed-point numbers
  [[nodiscard]] double exact() const { return exact_; }  ///< sum of x in steps, nearly unrounded

 private:
  std::vector<int8_t> limbs_;
  int64_t stride_ = 0, count_ = 0, sum_ = 0;
  double step_ = 0, exact_ = 0;
};

/// y = W x with W [rows, columns]. For kByte the weights are bytes q, x is `fixed`, and
///   y_k = row_scale_k (sum_i q_ki x_i + byte_shift sum_i x_i) + row_shift_k shift_factor + bias
/// q - 128 is multiplied with x in fixed point, and 128 + byte_shift with the exact sum, so what x
/// lost by rounding meets small weights.
struct Matvec {
  WeightType type = WeightType::kFp32;
  const void* weight = nullptr;
  int64_t rows = 0, columns = 0;
  const float* x = nullptr;
  float* y = nullptr;

  const FixedPoint* fixed = nullptr;
  const float* row_scale = nullptr;
  const float* row_shift = nullptr;
  double byte_shift = 0;
  float shift_factor = 0, bias = 0;
};

/// Computes all products, which do not depend on each other, in one go. Throws c10::Error for
/// missing pointers, sizes below 1, or bytes with more than FixedPoint::kMaxColumns columns.
void matvec(std::span<const Matvec> products);

/// z = layer norm of x (eps 1e-5) and up to three mixtures out_i = previous + mix_i (z - previous)
/// with the token before, as TimeMix and ChannelMix take them.
struct NormMix {
  const float* x = nullptr;  ///< [tokens, channels]
  int64_t tokens = 1, channels = 0;
  const float *weight = nullptr, *bias = nullptr;  ///< [channels]
  float* last = nullptr;  ///< [channels]: z before the first token; afterwards z of the last one
  int outputs = 0;
  std::array<const float*, 3> mix{};  ///< [channels]
  std::array<float*, 3> out{};        ///< [tokens, channels]
};
void norm_mix(const NormMix& in);

/// z = layer norm of x (eps 1e-5), both [tokens, channels].
void layer_norm(const float* x, const float* weight, const float* bias, float* z, int64_t tokens,
                int64_t channels);

/// One token of WKV-4 in place: a, b, p, all [channels], are replaced, y is written. decay is
/// -exp(time_decay).
struct WkvStep {
  const float *decay = nullptr, *time_first = nullptr, *k = nullptr, *v = nullptr;
  float *a = nullptr, *b = nullptr, *p = nullptr, *y = nullptr;
  int64_t channels = 0;
};
void wkv4_step(const WkvStep& in);

/// y *= sigmoid(r)
void gate(const float* r, float* y, int64_t count);
/// k = max(k, 0)^2
void relu_square(float* k, int64_t count);
/// x += scale y
void add_scaled(float* x, const float* y, float scale, int64_t count);
/// x += scale sigmoid(r) y
void add_gated(float* x, const float* r, const float* y, float scale, int64_t count);

/// Of x and a vector `shift`: sum x and sum x shift.
struct InputSums {
  float x, x_shift;
};
/// z = x scale, for weights of bytes.
InputSums scale_and_sum(const float* x, const float* scale, const float* shift, float* z,
                        int64_t count);
/// z = x scale + shift
void scale_and_shift(const float* x, const float* scale, const float* shift, float* z,
                     int64_t count);

/// Adds up `count` floats on all threads: reads memory once and does nothing else of note.
float read_all(const float* x, int64_t count);

/// What these loops use on this processor: "AVX512_VNNI", "AVX512", "AVX2" or "DEFAULT".
const char* inference_capability();

}  // namespace rwkv::ops
