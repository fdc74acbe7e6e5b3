#include "tests/cuda/test_device.h"

#include <gtest/gtest.h>
#include <torch/cuda.h>

#include <iostream>

namespace rwkv::ops {
namespace {

class DeviceEnvironment : public testing::Environment {
 public:
  void SetUp() override {
    if (test_device().is_cuda() && !torch::cuda::is_available()) {
      std::cout << "skipped: no CUDA device\n";
      GTEST_SKIP() << "no CUDA device";
    }
  }
};

[[maybe_unused]] const testing::Environment* const kDevice =
    testing::AddGlobalTestEnvironment(new DeviceEnvironment);

}  // namespace
}  // namespace rwkv::ops
