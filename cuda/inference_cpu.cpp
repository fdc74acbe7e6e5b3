#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <string_view>

#include "cuda/inference.h"
#include "cuda/inference_vector.h"
#include "cuda/wkv4_cpu.h"

namespace rwkv::ops {
namespace {

/// The widest kernels of this processor (ATEN_CPU_CAPABILITY narrows them, as it does LibTorch's).
const InferenceKernels& choose_kernels() {
  [[maybe_unused]] const std::string_view capability = wkv_capability();
#if defined(RWKV_X86_64)
  if (capability == "AVX512") return kInferenceKernelsAvx512;
  if (capability == "AVX2") return kInferenceKernelsAvx2;
#endif
  return kInferenceKernelsDefault;
}

const InferenceKernels& kernels() {
  static const InferenceKernels& chosen = choose_kernels();
  return chosen;
}

auto choose_byte_rows() {
#if defined(RWKV_X86_64)
  if (kernels().rows_byte_vnni != nullptr && __builtin_cpu_supports("avx512vnni")) {
    return kernels().rows_byte_vnni;
  }
#endif
  return kernels().rows_byte;
}

auto byte_rows() {
  static const auto chosen = choose_byte_rows();
  return chosen;
}

/// Less work than this is not worth another thread.
constexpr int64_t kGrainBytes = 1 << 16;
constexpr int64_t kGrainElements = 1 << 14;

int64_t item_size(WeightType type) {
  switch (type) {
    case WeightType::kFp32:
      return 4;
    case WeightType::kByte:
      return 1;
    default:
      return 2;
  }
}

void check(const Matvec& product) {
  TORCH_CHECK(product.rows > 0 && product.columns > 0, "matvec: the matrix is ", product.rows,
              " x ", product.columns, "; both must be positive");
  TORCH_CHECK(product.weight != nullptr && product.y != nullptr, "matvec: no weight or no y");
  if (product.type != WeightType::kByte) {
    TORCH_CHECK(product.x != nullptr, "matvec: no x");
    return;
  }
  TORCH_CHECK(
      product.fixed != nullptr && product.row_scale != nullptr && product.row_shift != nullptr,
      "matvec: bytes need fixed, row_scale and row_shift");
  TORCH_CHECK(product.fixed->count() == product.columns, "matvec: x has ", product.fixed->count(),
              " elements, the matrix has ", product.columns, " columns");
}

void run_rows(const Matvec& in, int64_t begin, int64_t end) {
  const int64_t rows = end - begin;
  const char* weight =
      static_cast<const char*>(in.weight) + begin * in.columns * item_size(in.type);
  float* y = in.y + begin;
  switch (in.type) {
    case WeightType::kFp32:
      return kernels().rows_fp32(reinterpret_cast<const float*>(weight), in.x, y, rows, in.columns);
    case WeightType::kBf16:
      return kernels().rows_bf16(reinterpret_cast<const uint16_t*>(weight), in.x, y, rows,
                                 in.columns);
    case WeightType::kFp16:
      return kernels().rows_fp16(reinterpret_cast<const uint16_t*>(weight), in.x, y, rows,
                                 in.columns);
    case WeightType::kByte: {
      const FixedPoint& x = *in.fixed;
      byte_rows()({reinterpret_cast<const uint8_t*>(weight), x.limbs(), x.stride(), rows,
                   in.columns, x.step(),
                   (128 + in.byte_shift) * x.exact() - 128 * static_cast<double>(x.sum()),
                   in.row_scale + begin, in.row_shift + begin, in.shift_factor, in.bias, y});
    }
  }
}

/// Runs body(begin, end) over tokens on all threads.
template <typename Body>
void over_tokens(int64_t tokens, int64_t channels, const Body& body) {
  if (tokens == 1) return body(0, 1);
  at::parallel_for(0, tokens, std::max<int64_t>(1, kGrainElements / channels), body);
}

}  // namespace

const char* inference_capability() {
  return byte_rows() == kernels().rows_byte_vnni ? "AVX512_VNNI" : wkv_capability();
}

void FixedPoint::assign(const float* x, int64_t count) {
  TORCH_CHECK(count > 0 && count <= kMaxColumns, "FixedPoint: ", count, " elements; 1..",
              kMaxColumns, " are possible");
  if (count != count_) {
    stride_ = (count + kFixedPointPadding - 1) / kFixedPointPadding * kFixedPointPadding;
    limbs_.assign(static_cast<size_t>(stride_ * kFixedPointLimbs), 0);
    count_ = count;
  }
  const FixedPointSums sums = kernels().to_fixed_point(x, count, limbs_.data(), stride_);
  sum_ = sums.coarse;
  step_ = sums.step;
  exact_ = static_cast<double>(sums.fine) / kFixedPointFine;
}

void matvec(std::span<const Matvec> products) {
  int64_t rows = 0, bytes = 0;
  for (const Matvec& product : products) {
    check(product);
    rows += product.rows;
    bytes += product.rows * product.columns * item_size(product.type);
  }
  if (rows == 0) return;
  const int64_t grain = std::max<int64_t>(1, kGrainBytes * rows / bytes);
  at::parallel_for(0, rows, grain, [&](int64_t begin, int64_t end) {
    int64_t first = 0;  // of this product, among the rows of all
    for (const Matvec& product : products) {
      const int64_t from = std::clamp(begin - first, int64_t{0}, product.rows);
      const int64_t to = std::clamp(end - first, int64_t{0}, product.rows);
      if (from < to) run_rows(product, from, to);
      first += product.rows;
    }
  });
}

void norm_mix(const NormMix& in) {
  TORCH_CHECK(in.tokens > 0 && in.channels > 0 && in.outputs >= 0 && in.outputs <= 3,
              "norm_mix: ", in.tokens, " tokens, ", in.channels, " channels, ", in.outputs,
              " outputs");
  const int64_t C = in.channels;
  const auto run = [&](int64_t t, float* previous, float* z, int outputs) {
    NormMixRow row{in.x + t * C, in.weight, in.bias, previous, z, {}, {}, outputs, C};
    for (int n = 0; n < outputs; ++n) {
      row.mix[n] = in.mix[static_cast<size_t>(n)];
      row.out[n] = in.out[static_cast<size_t>(n)] + t * C;
    }
    kernels().norm_mix(row);
  };
  if (in.tokens == 1) return run(0, in.last, in.last, in.outputs);
  std::vector<float> last(static_cast<size_t>(C));
  over_tokens(in.tokens, C, [&](int64_t begin, int64_t end) {
    std::vector<float> z(in.last, in.last + C);
    // The rows of another thread's last token are computed twice.
    if (begin > 0) run(begin - 1, nullptr, z.data(), 0);
    for (int64_t t = begin; t < end; ++t) run(t, z.data(), z.data(), in.outputs);
    if (end == in.tokens) last = z;
  });
  std::copy(last.begin(), last.end(), in.last);
}

void layer_norm(const float* x, const float* weight, const float* bias, float* z, int64_t tokens,
                int64_t channels) {
  TORCH_CHECK(tokens > 0 && channels > 0, "layer_norm: ", tokens, " tokens, ", channels,
              " channels");
  over_tokens(tokens, channels, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      kernels().norm_mix(
          {x + t * channels, weight, bias, nullptr, z + t * channels, {}, {}, 0, channels});
    }
  });
}

void wkv4_step(const WkvStep& in) {
  kernels().wkv({in.decay, in.time_first, in.k, in.v, in.a, in.b, in.p, in.y, in.channels});
}

namespace {

template <typename Body>
void over_elements(int64_t count, const Body& body) {
  if (count < 2 * kGrainElements) return body(0, count);
  at::parallel_for(0, count, kGrainElements, body);
}

}  // namespace

void gate(const float* r, float* y, int64_t count) {
  over_elements(count, [&](int64_t begin, int64_t end) {
    kernels().gate(r + begin, y + begin, end - begin);
  });
}

void relu_square(float* k, int64_t count) {
  over_elements(count,
                [&](int64_t begin, int64_t end) { kernels().relu_square(k + begin, end - begin); });
}

void add_scaled(float* x, const float* y, float scale, int64_t count) {
  over_elements(count, [&](int64_t begin, int64_t end) {
    kernels().add(x + begin, y + begin, scale, end - begin);
  });
}

void add_gated(float* x, const float* r, const float* y, float scale, int64_t count) {
  over_elements(count, [&](int64_t begin, int64_t end) {
    kernels().add_gated(x + begin, r + begin, y + begin, scale, end - begin);
  });
}

InputSums scale_and_sum(const float* x, const float* scale, const float* shift, float* z,
                        int64_t count) {
  float sums[2];
  kernels().scale_and_sum(x, scale, shift, z, count, sums);
  return {sums[0], sums[1]};
}

void scale_and_shift(const float* x, const float* scale, const float* shift, float* z,
                     int64_t count) {
  kernels().scale_and_shift(x, scale, shift, z, count);
}

float read_all(const float* x, int64_t count) {
  TORCH_CHECK(count >= 0, "read_all: ", count, " floats");
  return at::parallel_reduce(
      0, count, kGrainElements, 0.0F,
      [&](int64_t begin, int64_t end, float start) {
        return start + kernels().sum(x + begin, end - begin);
      },
      [](float left, float right) { return left + right; });
}

}  // namespace rwkv::ops
