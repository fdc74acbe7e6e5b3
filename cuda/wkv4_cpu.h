#pragma once

#include <cstdint>
#include <functional>

namespace rwkv::ops {

struct WkvVectorKernels;

/// The widest kernels that LibTorch found this processor to run (ATEN_CPU_CAPABILITY narrows it).
const WkvVectorKernels& wkv_vector_kernels();

/// Runs body(begin, end) over the pieces [0, count) on LibTorch's threads, each run of at least
/// `grain` pieces. Our own function, so that a test can see whether this library was built with
/// OpenMP: without it at::parallel_for is silently serial.
void parallel_pieces(int64_t count, int64_t grain,
                     const std::function<void(int64_t, int64_t)>& body);

/// What the WKV loops of this processor use, in the words of at::get_cpu_capability(): "AVX512",
/// "AVX2" or "DEFAULT".
const char* wkv_capability();

}  // namespace rwkv::ops
