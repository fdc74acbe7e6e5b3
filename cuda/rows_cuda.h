#pragma once

#include <cuda_runtime_api.h>

#include "cuda/rows_block.h"

namespace rwkv::ops {

// Launches on `stream` of the current device; they return at once and allocate nothing. Where there
// are no rows nothing is launched. A failed launch throws c10::Error.
// S: float, double, c10::BFloat16 or c10::Half.

template <typename S>
void launch_rows(const NormShiftMixRows<S>& args, cudaStream_t stream);
template <typename S>
void launch_rows(const NormShiftMixBackwardRows<S>& args, cudaStream_t stream);
template <typename S>
void launch_rows(const CrossEntropyRows<S>& args, cudaStream_t stream);
template <typename S>
void launch_relu_square(const ElementwiseRows<S>& args, cudaStream_t stream);
template <typename S>
void launch_gate_residual(const ElementwiseRows<S>& args, cudaStream_t stream);

}  // namespace rwkv::ops
