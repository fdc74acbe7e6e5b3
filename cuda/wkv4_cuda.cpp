#include "cuda/wkv4_cuda.h"

#include <c10/core/DeviceGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include "cuda/wkv4_gated.h"
#include "cuda/wkv4_run.h"

// WKV-4 on CUDA: the device of k, its current stream, no synchronisation with the host, so the
// operators may be captured in a CUDA graph. The guard is LibTorch's general one, which also takes
// a k on the CPU beside other tensors on a GPU: the checks then say so.

namespace rwkv::ops {
namespace {

using In = const at::Tensor&;
using MaybeIn = const OptionalTensor&;

/// Launches on the stream that was current when it was made.
class GpuLaunch {
 public:
  GpuLaunch() : stream_(c10::cuda::getCurrentCUDAStream()) {}

  template <typename S>
  void forward(const WkvForwardArguments<S>& args) const {
    launch_wkv_forward(args, stream_);
  }
  template <typename S>
  void backward(const WkvBackwardArguments<S>& args) const {
    launch_wkv_backward(args, stream_);
  }
  template <typename M>
  void sum(const WkvSumArguments<M>& args) const {
    launch_wkv_sum(args, stream_);
  }

 private:
  cudaStream_t stream_;
};

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> wkv4_cuda(In time_decay, In time_first,
                                                                     In k, In v, MaybeIn reset,
                                                                     MaybeIn a, MaybeIn b,
                                                                     MaybeIn p) {
  const c10::DeviceGuard guard(k.device());
  auto [y, a_T, b_T, p_T, none] =
      run_wkv4_forward(GpuLaunch(), {time_decay, time_first, k, v, reset}, a, b, p, false);
  return {y, a_T, b_T, p_T};
}

Wkv4ForwardTensors wkv4_train_cuda(In time_decay, In time_first, In k, In v, MaybeIn reset,
                                   MaybeIn a, MaybeIn b, MaybeIn p) {
  const c10::DeviceGuard guard(k.device());
  return run_wkv4_forward(GpuLaunch(), {time_decay, time_first, k, v, reset}, a, b, p, true);
}

Wkv4BackwardTensors wkv4_backward_cuda(In time_decay, In time_first, In k, In v, MaybeIn reset,
                                       In checkpoints, MaybeIn gy, MaybeIn ga, MaybeIn gb) {
  const c10::DeviceGuard guard(k.device());
  return run_wkv4_backward(GpuLaunch(), {time_decay, time_first, k, v, reset}, checkpoints, gy, ga,
                           gb);
}

Wkv4GatedForward wkv4_gated_cuda(In time_decay, In time_first, In k, In v, In r, MaybeIn reset,
                                 MaybeIn a, MaybeIn b, MaybeIn p) {
  const c10::DeviceGuard guard(k.device());
  auto [out, a_T, b_T, p_T, none] =
      run_wkv4_forward(GpuLaunch(), {time_decay, time_first, k, v, reset, &r}, a, b, p, false);
  return {out, a_T, b_T, p_T};
}

Wkv4GatedTrain wkv4_gated_train_cuda(In time_decay, In time_first, In k, In v, In r, MaybeIn reset,
                                     MaybeIn a, MaybeIn b, MaybeIn p) {
  const c10::DeviceGuard guard(k.device());
  return run_wkv4_forward(GpuLaunch(), {time_decay, time_first, k, v, reset, &r}, a, b, p, true);
}

Wkv4GatedBackward wkv4_gated_backward_cuda(In time_decay, In time_first, In k, In v, In r,
                                           MaybeIn reset, In checkpoints, MaybeIn g, MaybeIn ga,
                                           MaybeIn gb) {
  const c10::DeviceGuard guard(k.device());
  Wkv4GateTensors gate;
  auto [g_decay, g_first, gk, gv, ga_0, gb_0, gp_0] = run_wkv4_backward(
      GpuLaunch(), {time_decay, time_first, k, v, reset, &r}, checkpoints, g, ga, gb, &gate);
  return {g_decay, g_first, gk, gv, gate.gr, ga_0, gb_0, gp_0, gate.out};
}

}  // namespace

TORCH_LIBRARY_IMPL(rwkv, CUDA, m) {
  m.impl("wkv4", wkv4_cuda);
  m.impl("wkv4_train", wkv4_train_cuda);
  m.impl("wkv4_backward", wkv4_backward_cuda);
  m.impl("wkv4_gated", wkv4_gated_cuda);
  m.impl("wkv4_gated_train", wkv4_gated_train_cuda);
  m.impl("wkv4_gated_backward", wkv4_gated_backward_cuda);
}

}  // namespace rwkv::ops
