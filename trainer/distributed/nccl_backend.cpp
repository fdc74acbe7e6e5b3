// Compiled against NCCL's header in a CUDA build; no line of it has run on a GPU.
#ifdef USE_C10D_NCCL
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>

#include <cstdlib>
#endif

#include "data/base/error.h"
#include "trainer/distributed/backends.h"

namespace rwkv::trainer {

#ifdef USE_C10D_NCCL

BackendPtr make_nccl_backend(const StorePtr& store, int64_t rank, int64_t world_size,
                             at::Device device, std::chrono::milliseconds timeout) {
  // The flight recorder keeps the last collectives and writes them down when one times out.
  ::setenv("TORCH_NCCL_TRACE_BUFFER_SIZE", "2000", /*overwrite=*/0);
  ::setenv("TORCH_NCCL_DUMP_ON_TIMEOUT", "1", /*overwrite=*/0);
  const auto options = c10d::ProcessGroupNCCL::Options::create();
  options->timeout = timeout;
  auto backend = c10::make_intrusive<c10d::ProcessGroupNCCL>(store, static_cast<int>(rank),
                                                             static_cast<int>(world_size), options);
  backend->setBoundDeviceId(device);
  return backend;
}

#else

BackendPtr make_nccl_backend(const StorePtr& /*store*/, int64_t /*rank*/, int64_t /*world_size*/,
                             at::Device /*device*/, std::chrono::milliseconds /*timeout*/) {
  user_error(
      "train.device: this build has no NCCL, so several ranks cannot train on CUDA devices; build "
      "with 'scripts/build cuda', or set train.device: cpu");
}

#endif

}  // namespace rwkv::trainer
