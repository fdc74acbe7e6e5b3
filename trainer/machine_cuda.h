#pragma once

#include "trainer/machine_facts.h"

namespace rwkv::trainer {

/// Looks for a CUDA driver (by opening libcuda.so.1) and a toolkit (nvcc on the PATH, in CUDA_HOME
/// or /usr/local/cuda). Needs neither, to be compiled or to run.
CudaFacts read_cuda();

}  // namespace rwkv::trainer
