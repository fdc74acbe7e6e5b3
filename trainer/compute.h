#pragma once

#include <ATen/core/Tensor.h>

#include "trainer/config.h"

namespace rwkv::trainer {

/// Where and in which type of number a run computes.
struct Compute {
  at::Device device = at::kCPU;
  at::ScalarType dtype = at::kFloat;  // of the module, its activations and gradients
};

/// Finds the device that `config` asks for, the `local_rank`-th of its kind, and sets LibTorch's
/// switches: number of threads (the cores are divided among `local_world_size` processes), TF32,
/// deterministic algorithms. Warns where the processor has no fast arithmetic for the precision.
/// Throws UserError when there is no such device.
Compute set_up_compute(const TrainConfig& config, int64_t local_rank = 0,
                       int64_t local_world_size = 1);

}  // namespace rwkv::trainer
