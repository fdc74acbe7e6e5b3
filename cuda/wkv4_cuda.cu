// Kernels of WKV-4: shells around the bodies in wkv4_thread.h, and their launches.
#include <c10/cuda/CUDAException.h>
#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <limits>

#include "cuda/wkv4_cuda.h"

namespace rwkv::ops {
namespace {

template <bool Training, typename S>
__global__ void __launch_bounds__(kWkvBlockThreads)
    wkv_forward(const __grid_constant__ WkvForwardArguments<S> args) {
  wkv_forward_thread<Training>(args, blockIdx.x, static_cast<int>(threadIdx.x));
}

template <typename S>
__global__ void __launch_bounds__(kWkvBlockThreads)
    wkv_backward(const __grid_constant__ WkvBackwardArguments<S> args) {
  wkv_backward_thread(args, blockIdx.x, static_cast<int>(threadIdx.x));
}

template <typename M>
__global__ void __launch_bounds__(kWkvBlockThreads)
    wkv_sum(const __grid_constant__ WkvSumArguments<M> args) {
  wkv_sum_thread(args, blockIdx.x, static_cast<int>(threadIdx.x));
}

/// The grid for `threads` threads, at least one.
dim3 grid_of(int64_t threads) {
  const int64_t blocks = wkv_blocks(threads);
  TORCH_CHECK(blocks <= std::numeric_limits<int32_t>::max(), "wkv4: B * C = ", threads,
              " needs more blocks than a CUDA grid holds");
  return dim3(static_cast<unsigned>(blocks));
}

}  // namespace

template <typename S>
void launch_wkv_forward(const WkvForwardArguments<S>& args, cudaStream_t stream) {
  const int64_t threads = args.sizes.B * args.sizes.C;
  if (threads == 0) return;
  if (args.checkpoints == nullptr) {
    wkv_forward<false><<<grid_of(threads), kWkvBlockThreads, 0, stream>>>(args);
  } else {
    wkv_forward<true><<<grid_of(threads), kWkvBlockThreads, 0, stream>>>(args);
  }
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

template <typename S>
void launch_wkv_backward(const WkvBackwardArguments<S>& args, cudaStream_t stream) {
  const int64_t threads = args.sizes.B * args.sizes.C;
  if (threads == 0) return;
  wkv_backward<<<grid_of(threads), kWkvBlockThreads, 0, stream>>>(args);
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

template <typename M>
void launch_wkv_sum(const WkvSumArguments<M>& args, cudaStream_t stream) {
  if (args.C == 0) return;
  wkv_sum<<<grid_of(args.C), kWkvBlockThreads, 0, stream>>>(args);
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

template void launch_wkv_forward(const WkvForwardArguments<float>&, cudaStream_t);
template void launch_wkv_forward(const WkvForwardArguments<double>&, cudaStream_t);
template void launch_wkv_forward(const WkvForwardArguments<c10::BFloat16>&, cudaStream_t);
template void launch_wkv_forward(const WkvForwardArguments<c10::Half>&, cudaStream_t);
template void launch_wkv_backward(const WkvBackwardArguments<float>&, cudaStream_t);
template void launch_wkv_backward(const WkvBackwardArguments<double>&, cudaStream_t);
template void launch_wkv_backward(const WkvBackwardArguments<c10::BFloat16>&, cudaStream_t);
template void launch_wkv_backward(const WkvBackwardArguments<c10::Half>&, cudaStream_t);
template void launch_wkv_sum(const WkvSumArguments<float>&, cudaStream_t);
template void launch_wkv_sum(const WkvSumArguments<double>&, cudaStream_t);

}  // namespace rwkv::ops
