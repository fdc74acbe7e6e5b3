#include "cuda/rows_cuda.h"

#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include "cuda/rows_run.h"

namespace rwkv::ops {
namespace {

/// Launches on the stream that was current when it was made.
class GpuRows {
 public:
  GpuRows() : stream_(c10::cuda::getCurrentCUDAStream()) {}

  template <typename Rows>
  void run(const Rows& args) const {
    launch_rows(args, stream_);
  }
  template <typename S>
  void run_relu_square(const ElementwiseRows<S>& args) const {
    launch_relu_square(args, stream_);
  }
  template <typename S>
  void run_gate_residual(const ElementwiseRows<S>& args) const {
    launch_gate_residual(args, stream_);
  }

 private:
  cudaStream_t stream_;
};

}  // namespace

TORCH_LIBRARY_IMPL(rwkv, CUDA, m) { RowOperators<GpuRows>::register_in(m); }

}  // namespace rwkv::ops
