#pragma once

#include <ATen/core/Tensor.h>

#include <chrono>
#include <string>
#include <torch/csrc/distributed/c10d/Backend.hpp>

#include "trainer/distributed/store.h"

namespace rwkv::trainer {

// One function for each library that moves tensors. Each in a file of its own, since their headers
// need definitions and include folders that nothing else should see.
using BackendPtr = c10::intrusive_ptr<c10d::Backend>;

/// Gloo, for tensors on the CPU. `address` is this machine's own one, on which it listens.
BackendPtr make_gloo_backend(const StorePtr& store, int64_t rank, int64_t world_size,
                             const std::string& address, std::chrono::milliseconds timeout);

/// NCCL, for tensors on CUDA devices. Throws UserError in a build without CUDA.
BackendPtr make_nccl_backend(const StorePtr& store, int64_t rank, int64_t world_size,
                             at::Device device, std::chrono::milliseconds timeout);

}  // namespace rwkv::trainer
