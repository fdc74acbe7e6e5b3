#include "tests/cuda/test_device.h"

#include <gtest/gtest.h>
#include <torch/cuda.h>

#include <cstdlib>
#include <iostream>

namespace rwkv::ops {
namespace {

class DeviceEnvironment : public testing::Environment {
 public:
  void SetUp() override {
    if (test_device().is_cuda() && !torch::cuda::is_available()) {
      // Not GTEST_SKIP: GoogleTest 1.12 would count every test as passed.
      constexpr int kExitSkipped = 77;
      std::cout << "skipped: no CUDA device" << std::endl;
      std::exit(kExitSkipped);
    }
  }
};

[[maybe_unused]] const testing::Environment* const kDevice =
    testing::AddGlobalTestEnvironment(new DeviceEnvironment);

}  // namespace
}  // namespace rwkv::ops
