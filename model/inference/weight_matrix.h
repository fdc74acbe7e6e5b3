#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <vector>

#include "cuda/inference.h"
#include "model/formats/tensor_file.h"
#include "model/inference/quantise.h"
#include "model/inference/strategy.h"

namespace rwkv::model {

/// One weight matrix W [out,in] in the form that a strategy keeps it in. Its scratch memory makes
/// it good for one product at a time.
class WeightMatrix {
 public:
  virtual ~WeightMatrix() = default;

  /// y = W x for one token: adds the product to `batch`, or computes it at once. x [in], y [out]
  /// float32; both must live until ops::matvec(batch) has run.
  virtual void multiply(const float* x, float* y, std::vector<ops::Matvec>& batch) = 0;
  /// out = x W^T for many tokens: x float32 [N,in], out float32 [N,out], both with plain rows.
  virtual void multiply_rows(const at::Tensor& x, at::Tensor& out) = 0;
  /// Takes x [N,in] as samples of the inputs and chooses better scales; nothing for most forms.
  virtual void calibrate(const at::Tensor& /*x*/) {}

  /// Bytes that a product reads: the numbers of the matrix in the form of its slot.
  [[nodiscard]] virtual int64_t size_bytes() const = 0;
  [[nodiscard]] int64_t rows() const { return rows_; }
  [[nodiscard]] int64_t columns() const { return columns_; }

 protected:
  WeightMatrix(int64_t rows, int64_t columns) : rows_(rows), columns_(columns) {}
  int64_t rows_, columns_;
};

/// The tensor `info` of `file`, a matrix, as `slot` says. `file` must outlive the result. Reads and
/// checks the data. Throws UserError for damaged data, numbers beyond fp16, what cannot be
/// streamed, and when memory ends.
std::unique_ptr<WeightMatrix> load_matrix(const formats::TensorFile& file,
                                          const formats::TensorInfo& info, const Slot& slot);

/// The matrix of a ByteWeights of one of the two schemes, for tests and tools.
std::unique_ptr<WeightMatrix> byte_matrix(ByteWeights weights, WeightForm form);

/// Memory for weights of one type: filled by the caller, 64-byte aligned, in large pages where the
/// system has them. Throws UserError when memory ends.
at::Tensor weight_memory(at::IntArrayRef shape, at::ScalarType dtype);

}  // namespace rwkv::model
