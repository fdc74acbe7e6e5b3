// The headers come from Debian's libgloo-dev, the library is the one inside of libtorch_cpu.
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>

#include "trainer/distributed/backends.h"

namespace rwkv::trainer {

BackendPtr make_gloo_backend(const StorePtr& store, int64_t rank, int64_t world_size,
                             const std::string& address, std::chrono::milliseconds timeout) {
  const auto options = c10d::ProcessGroupGloo::Options::create(timeout);
  options->devices = {c10d::ProcessGroupGloo::createDeviceForHostname(address)};
  return c10::make_intrusive<c10d::ProcessGroupGloo>(store, static_cast<int>(rank),
                                                     static_cast<int>(world_size), options);
}

}  // namespace rwkv::trainer
