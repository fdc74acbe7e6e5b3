#pragma once

#include <cuda_runtime_api.h>

#include "cuda/wkv4_thread.h"

namespace rwkv::ops {

// Launches on `stream` of the current device; they return at once and allocate nothing. Where there
// are no channels or rows nothing is launched. A failed launch throws c10::Error.
// S: float, double, c10::BFloat16 or c10::Half; M: float or double.

/// Writes checkpoints where args.checkpoints is not null.
template <typename S>
void launch_wkv_forward(const WkvForwardArguments<S>& args, cudaStream_t stream);

template <typename S>
void launch_wkv_backward(const WkvBackwardArguments<S>& args, cudaStream_t stream);

template <typename M>
void launch_wkv_sum(const WkvSumArguments<M>& args, cudaStream_t stream);

}  // namespace rwkv::ops
