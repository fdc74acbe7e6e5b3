// Kernels of the operators on rows: shells around the bodies in rows_block.h, and their launches.
#include <c10/cuda/CUDAException.h>
#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <limits>

#include "cuda/rows_cuda.h"

namespace rwkv::ops {
namespace {

constexpr int kThreads = 256;
constexpr int kWarp = 32;

/// The threads of a block, as rows_block.h sees them.
struct BlockGroup {
  template <typename F>
  WKV_HD void each(int64_t n, const F& f) const {
#if defined(__CUDA_ARCH__)
    for (int64_t i = threadIdx.x; i < n; i += kThreads) f(i);
#else
    (void)n, (void)f;
#endif
  }

  template <typename M, typename F>
  WKV_HD M sum(int64_t n, const F& f) const {
    M own = M(0);
    each(n, [&](int64_t i) { own += f(i); });
    return combine(own, [](M x, M y) { return x + y; });
  }

  template <typename M, typename F>
  WKV_HD M max(int64_t n, const F& f) const {
    M own = f(0);
    each(n, [&](int64_t i) {
      const M x = f(i);
      own = x > own ? x : own;
    });
    return combine(own, [](M x, M y) { return x > y ? x : y; });
  }

  /// Within each warp, then over the warps in their order.
  template <typename M, typename Op>
  WKV_HD M combine(M own, const Op& op) const {
#if defined(__CUDA_ARCH__)
    __shared__ M of_warp[kThreads / kWarp];
    for (int offset = kWarp / 2; offset > 0; offset /= 2) {
      own = op(own, __shfl_xor_sync(0xFFFFFFFFU, own, offset));
    }
    __syncthreads();  // the values of the last call have been read
    if (threadIdx.x % kWarp == 0) of_warp[threadIdx.x / kWarp] = own;
    __syncthreads();
    own = of_warp[0];
    for (int warp = 1; warp < kThreads / kWarp; ++warp) own = op(own, of_warp[warp]);
#else
    (void)op;
#endif
    return own;
  }
};

template <typename S>
__global__ void __launch_bounds__(kThreads)
    norm_shift_mix(const __grid_constant__ NormShiftMixRows<S> args) {
  norm_shift_mix_block(args, blockIdx.x, BlockGroup());
}

template <typename S>
__global__ void __launch_bounds__(kThreads)
    norm_shift_mix_backward(const __grid_constant__ NormShiftMixBackwardRows<S> args) {
  norm_shift_mix_backward_block(args, blockIdx.x, BlockGroup());
}

template <typename S>
__global__ void __launch_bounds__(kThreads)
    cross_entropy(const __grid_constant__ CrossEntropyRows<S> args) {
  cross_entropy_block(args, blockIdx.x, BlockGroup());
}

template <typename S>
__global__ void __launch_bounds__(kThreads)
    relu_square(const __grid_constant__ ElementwiseRows<S> args) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i < args.n) relu_square_element(args, i);
}

template <typename S>
__global__ void __launch_bounds__(kThreads)
    gate_residual(const __grid_constant__ ElementwiseRows<S> args) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i < args.n) gate_residual_element(args, i);
}

dim3 grid_of(int64_t blocks) {
  TORCH_CHECK(blocks <= std::numeric_limits<int32_t>::max(), "rows: ", blocks,
              " blocks are more than a CUDA grid holds");
  return dim3(static_cast<unsigned>(blocks));
}

}  // namespace

template <typename S>
void launch_rows(const NormShiftMixRows<S>& args, cudaStream_t stream) {
  if (args.B * args.T == 0) return;
  norm_shift_mix<<<grid_of(args.B * args.T), kThreads, 0, stream>>>(args);
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

template <typename S>
void launch_rows(const NormShiftMixBackwardRows<S>& args, cudaStream_t stream) {
  if (args.B * args.T == 0) return;
  norm_shift_mix_backward<<<grid_of(blocks_of_rows(args.B * args.T)), kThreads, 0, stream>>>(args);
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

template <typename S>
void launch_rows(const CrossEntropyRows<S>& args, cudaStream_t stream) {
  if (args.N == 0) return;
  cross_entropy<<<grid_of(args.N), kThreads, 0, stream>>>(args);
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

template <typename S>
void launch_relu_square(const ElementwiseRows<S>& args, cudaStream_t stream) {
  if (args.n == 0) return;
  relu_square<<<grid_of((args.n + kThreads - 1) / kThreads), kThreads, 0, stream>>>(args);
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

template <typename S>
void launch_gate_residual(const ElementwiseRows<S>& args, cudaStream_t stream) {
  if (args.n == 0) return;
  gate_residual<<<grid_of((args.n + kThreads - 1) / kThreads), kThreads, 0, stream>>>(args);
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

#define RWKV_ROWS_OF(S)                                                        \
  template void launch_rows(const NormShiftMixRows<S>&, cudaStream_t);         \
  template void launch_rows(const NormShiftMixBackwardRows<S>&, cudaStream_t); \
  template void launch_rows(const CrossEntropyRows<S>&, cudaStream_t);         \
  template void launch_relu_square(const ElementwiseRows<S>&, cudaStream_t);   \
  template void launch_gate_residual(const ElementwiseRows<S>&, cudaStream_t);
RWKV_ROWS_OF(float)
RWKV_ROWS_OF(double)
RWKV_ROWS_OF(c10::BFloat16)
RWKV_ROWS_OF(c10::Half)
#undef RWKV_ROWS_OF

}  // namespace rwkv::ops
