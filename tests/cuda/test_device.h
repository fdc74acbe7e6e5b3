#pragma once

#include <ATen/core/Tensor.h>

#include <cstdlib>

namespace rwkv::ops {

/// Where the operator runs in these tests: RWKV_TEST_DEVICE=cpu (default) or cuda. Inputs and
/// results stay on the CPU. Without a GPU, "cuda" runs no test, says so and exits with code 77.
inline at::Device test_device() {
  const char* const name = std::getenv("RWKV_TEST_DEVICE");
  return at::Device(name == nullptr ? "cpu" : name);
}

}  // namespace rwkv::ops
