#include "model/inference/weight_matrix.h"

#include <ATen/Parallel.h>
#include <sys/mman.h>
#include <torch/torch.h>

#include <algorithm>
#include <atomic>
#include <utility>

#include "data/base/error.h"
#include "model/formats/element_types.h"

namespace rwkv::model {
namespace {

using formats::DType;
using formats::TensorFile;
using formats::TensorInfo;

/// Weights that pass through memory at a time: they stay in the second cache.
constexpr int64_t kBlockBytes = 1 << 20;

int64_t block_rows(int64_t rows, int64_t columns) {
  return std::clamp(kBlockBytes / (4 * columns), int64_t{1}, rows);
}

/// out = x W^T by blocks of rows of W, which fill(block, first_row) writes as float32.
template <typename Fill>
void multiply_blocks(const at::Tensor& x, at::Tensor& out, int64_t columns, const Fill& fill) {
  const int64_t rows = out.size(1);
  const int64_t step = block_rows(rows, columns);
  const at::Tensor buffer = at::empty({step, columns}, at::kFloat);
  for (int64_t first = 0; first < rows; first += step) {
    at::Tensor block = buffer.narrow(0, 0, std::min(step, rows - first));
    fill(block, first);
    at::Tensor columns_of_out = out.narrow(1, first, block.size(0));
    at::mm_out(columns_of_out, x, block.t());
  }
}

at::ScalarType scalar_type(WeightForm form) {
  switch (form) {
    case WeightForm::kBf16:
      return at::kBFloat16;
    case WeightForm::kFp16:
      return at::kHalf;
    default:
      return at::kFloat;
  }
}

DType file_type(WeightForm form) {
  switch (form) {
    case WeightForm::kBf16:
      return DType::bf16;
    case WeightForm::kFp16:
      return DType::f16;
    default:
      return DType::f32;
  }
}

ops::WeightType weight_type(WeightForm form) {
  switch (form) {
    case WeightForm::kBf16:
      return ops::WeightType::kBf16;
    case WeightForm::kFp16:
      return ops::WeightType::kFp16;
    default:
      return ops::WeightType::kFp32;
  }
}

/// Whether LibTorch multiplies bfloat16 matrices faster than float32 ones here.
bool multiplies_bf16() {
#if defined(__x86_64__)
  static const bool supported = __builtin_cpu_supports("avx512bf16") != 0;
  return supported;
#else
  return false;
#endif
}

/// fp32, bf16 or fp16 in memory.
class DenseMatrix : public WeightMatrix {
 public:
  DenseMatrix(at::Tensor weight, WeightForm form)
      : WeightMatrix(weight.size(0), weight.size(1)), weight_(std::move(weight)), form_(form) {}

  void multiply(const float* x, float* y, std::vector<ops::Matvec>& batch) override {
    batch.push_back({weight_type(form_), weight_.const_data_ptr(), rows_, columns_, x, y});
  }

  void multiply_rows(const at::Tensor& x, at::Tensor& out) override {
    if (form_ == WeightForm::kFp32) {
      at::mm_out(out, x, weight_.t());
    } else if (form_ == WeightForm::kBf16 && multiplies_bf16()) {
      out.copy_(at::linear(x.to(at::kBFloat16), weight_));
    } else {
      multiply_blocks(x, out, columns_, [&](at::Tensor& block, int64_t first) {
        block.copy_(weight_.narrow(0, first, block.size(0)));
      });
    }
  }

  [[nodiscard]] int64_t size_bytes() const override {
    return static_cast<int64_t>(weight_.nbytes());
  }

 private:
  at::Tensor weight_;
  WeightForm form_;
};

/// What a product with bytes takes of x: z = x column_scale (+ column_shift), also in fixed point.
struct ByteInput {
  std::vector<float> z;
  ops::FixedPoint fixed;
};

/// Bytes of one of the two schemes of quantise.h.
class ByteMatrix : public WeightMatrix {
 public:
  ByteMatrix(ByteWeights weights, WeightForm form)
      : WeightMatrix(weights.q.size(0), weights.q.size(1)),
        weights_(std::move(weights)),
        form_(form) {}

  void multiply(const float* x, float* y, std::vector<ops::Matvec>& batch) override {
    input_.z.resize(static_cast<size_t>(columns_));
    const float* scale = weights_.column_scale.const_data_ptr<float>();
    const float* shift = weights_.column_shift.const_data_ptr<float>();
    ops::Matvec product{
        ops::WeightType::kByte, weights_.q.const_data_ptr(), rows_, columns_, nullptr, y};
    product.row_scale = weights_.row_scale.const_data_ptr<float>();
    product.row_shift = weights_.row_shift.const_data_ptr<float>();
    if (form_ == WeightForm::kI8) {
      // y_k = rx_k sum (q + 1/2) (x ry) + mx_k sum x + sum x my
      const auto sums = ops::scale_and_sum(x, scale, shift, input_.z.data(), columns_);
      product.byte_shift = 0.5;
      product.shift_factor = sums.x;
      product.bias = sums.x_shift;
    } else {
      // y = (Q (x * a + aa)) * b + bb; b comes divided by 127
      ops::scale_and_shift(x, scale, shift, input_.z.data(), columns_);
      product.row_scale = row_scale_127().const_data_ptr<float>();
      product.byte_shift = -128;
      product.shift_factor = 1;
    }
    input_.fixed.assign(input_.z.data(), columns_);
    product.fixed = &input_.fixed;
    batch.push_back(product);
  }

  void multiply_rows(const at::Tensor& x, at::Tensor& out) override {
    multiply_blocks(x, out, columns_, [&](at::Tensor& block, int64_t first) {
      const int64_t end = first + block.size(0);
      block.copy_(form_ == WeightForm::kI8 ? dequantise_i8(weights_, first, end)
                                           : dequantise_seed(weights_, first, end));
    });
  }

  [[nodiscard]] int64_t size_bytes() const override { return rows_ * columns_; }

 protected:
  void replace(ByteWeights weights) {
    weights_ = std::move(weights);
    row_scale_127_ = at::Tensor();
  }

 private:
  const at::Tensor& row_scale_127() {
    if (!row_scale_127_.defined()) row_scale_127_ = weights_.row_scale / 127;
    return row_scale_127_;
  }

  ByteWeights weights_;
  WeightForm form_;
  at::Tensor row_scale_127_;
  ByteInput input_;
};

at::Tensor read_matrix(const TensorFile& file, const TensorInfo& info, WeightForm form) {
  at::Tensor weight = weight_memory(info.shape, scalar_type(form));
  const auto infinite = file.read(
      info, file_type(form), {static_cast<std::byte*>(weight.mutable_data_ptr()), weight.nbytes()});
  if (infinite > 0) {
    user_error("{}: {} has {} numbers beyond fp16, which ends at 65504; use bf16 or fp32",
               file.name(), printable(info.name), infinite);
  }
  return weight;
}

/// i8-seed that can still read its weights from the file, for better scales.
class SeedMatrix : public ByteMatrix {
 public:
  SeedMatrix(const TensorFile& file, const TensorInfo& info)
      : ByteMatrix(quantise_seed(read_matrix(file, info, WeightForm::kFp32)), WeightForm::kI8Seed),
        file_(file),
        info_(info) {}

  void calibrate(const at::Tensor& x) override {
    replace(quantise_seed(read_matrix(file_, info_, WeightForm::kFp32), x));
  }

 private:
  const TensorFile& file_;
  const TensorInfo& info_;
};

/// Weights that stay in the mapped file: each product reads them in blocks of rows, in the type of
/// the strategy, and gives the pages back.
class StreamedMatrix : public WeightMatrix {
 public:
  StreamedMatrix(const TensorFile& file, const TensorInfo& info, WeightForm form)
      : WeightMatrix(info.shape[0], info.shape[1]), file_(file), info_(info), form_(form) {}

  void multiply(const float* x, float* y, std::vector<ops::Matvec>& /*batch*/) override {
    for_each_block([&](int64_t first, int64_t count, std::span<const std::byte> bytes) {
      const void* weight =
          is_ready(bytes.data()) ? bytes.data() : converted(bytes, count).const_data_ptr();
      const ops::Matvec product{weight_type(form_), weight, count, columns_, x, y + first};
      ops::matvec(std::span(&product, 1));
    });
  }

  void multiply_rows(const at::Tensor& x, at::Tensor& out) override {
    for_each_block([&](int64_t first, int64_t count, std::span<const std::byte> bytes) {
      at::Tensor block_of_out = out.narrow(1, first, count);
      at::mm_out(block_of_out, x, converted(bytes, count).to(at::kFloat).t());
    });
  }

  [[nodiscard]] int64_t size_bytes() const override { return info_.size_bytes(); }

 private:
  template <typename Body>
  void for_each_block(const Body& body) {
    const auto all = info_.contiguous_bytes();
    const auto row = static_cast<size_t>(columns_ * formats::item_size(info_.dtype));
    const int64_t step = block_rows(rows_, columns_);
    for (int64_t first = 0; first < rows_; first += step) {
      const int64_t count = std::min(step, rows_ - first);
      const auto bytes =
          all.subspan(static_cast<size_t>(first) * row, static_cast<size_t>(count) * row);
      body(first, count, bytes);
      for (const MappedFile& mapped : file_.files()) mapped.release(bytes);
    }
  }

  /// Whether the bytes in the file are numbers as the product reads them.
  [[nodiscard]] bool is_ready(const std::byte* from) const {
    const auto item = static_cast<uintptr_t>(formats::item_size(info_.dtype));
    return info_.dtype == file_type(form_) && reinterpret_cast<uintptr_t>(from) % item == 0;
  }

  /// The block in the strategy's type, converted by all threads.
  at::Tensor converted(std::span<const std::byte> bytes, int64_t count) {
    if (!buffer_.defined()) {
      buffer_ = at::empty({block_rows(rows_, columns_), columns_}, scalar_type(form_));
    }
    at::Tensor block = buffer_.narrow(0, 0, count);
    const std::span<std::byte> to(static_cast<std::byte*>(block.mutable_data_ptr()),
                                  block.nbytes());
    const size_t from_row = bytes.size() / static_cast<size_t>(count);
    const size_t to_row = to.size() / static_cast<size_t>(count);
    std::atomic<int64_t> overflows = 0;
    at::parallel_for(0, count, 16, [&](int64_t begin, int64_t end) {
      const auto first = static_cast<size_t>(begin), rows = static_cast<size_t>(end - begin);
      overflows +=
          formats::convert_elements(bytes.subspan(first * from_row, rows * from_row), info_.dtype,
                                    to.subspan(first * to_row, rows * to_row), file_type(form_));
    });
    if (overflows > 0) {
      user_error("{}: {} has {} numbers beyond fp16, which ends at 65504; use bf16 or fp32",
                 file_.name(), info_.name, overflows.load());
    }
    return block;
  }

  const TensorFile& file_;
  const TensorInfo& info_;
  WeightForm form_;
  at::Tensor buffer_;
};

std::unique_ptr<WeightMatrix> streamed_matrix(const TensorFile& file, const TensorInfo& info,
                                              WeightForm form) {
  if (form == WeightForm::kI8 || form == WeightForm::kI8Seed) {
    user_error(
        "--strategy: bytes are made of a whole matrix and cannot be streamed from {}; use fp32, "
        "bf16 or fp16 before *N+",
        file.name());
  }
  if (!info.is_contiguous() || !formats::is_number(info.dtype)) {
    user_error(
        "--strategy: {} of {} does not lie row by row in the file and cannot be streamed; write it "
        "anew with 'rwkv convert'",
        printable(info.name), file.name());
  }
  file.verify(info);
  return std::make_unique<StreamedMatrix>(file, info, form);
}

}  // namespace

at::Tensor weight_memory(at::IntArrayRef shape, at::ScalarType dtype) {
  try {
    at::Tensor memory = at::empty(shape, dtype);
    // Whole pages inside the block: those at the ends may be shared with others.
    constexpr uintptr_t kPage = 4096;
    const auto begin = (reinterpret_cast<uintptr_t>(memory.data_ptr()) + kPage - 1) / kPage * kPage;
    const auto end =
        (reinterpret_cast<uintptr_t>(memory.data_ptr()) + memory.nbytes()) / kPage * kPage;
    if (begin < end) ::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
    return memory;
  } catch (const c10::Error&) {
    // The allocator of LibTorch throws nothing else for sizes that fit into 64 bits.
    user_error(
        "--strategy: memory ended while the weights were loaded; keep fewer layers in memory, e.g. "
        "'cpu fp32 *2+' reads all but two from the file, or store them in less (bf16, i8)");
  }
}

std::unique_ptr<WeightMatrix> byte_matrix(ByteWeights weights, WeightForm form) {
  TORCH_CHECK(form == WeightForm::kI8 || form == WeightForm::kI8Seed, "byte_matrix: form ",
              static_cast<int>(form), " is not one of bytes");
  return std::make_unique<ByteMatrix>(std::move(weights), form);
}

std::unique_ptr<WeightMatrix> load_matrix(const TensorFile& file, const TensorInfo& info,
                                          const Slot& slot) {
  if (slot.streamed) return streamed_matrix(file, info, slot.form);
  switch (slot.form) {
    case WeightForm::kI8:
      return byte_matrix(quantise_i8(read_matrix(file, info, WeightForm::kFp32)), slot.form);
    case WeightForm::kI8Seed:
      return std::make_unique<SeedMatrix>(file, info);
    default:
      return std::make_unique<DenseMatrix>(read_matrix(file, info, slot.form), slot.form);
  }
}

}  // namespace rwkv::model
