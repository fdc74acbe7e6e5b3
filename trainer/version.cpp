#include "trainer/version.h"

#include <torch/headeronly/version.h>

#include <sstream>

namespace rwkv::trainer {

std::string version_text() {
  return std::string(RWKV_VERSION) + " (commit " + RWKV_COMMIT + ", LibTorch " + TORCH_VERSION +
         ")";
}

BuildFacts build_facts() {
  return {version_text(), RWKV_COMPILER, RWKV_BUILD_TYPE, RWKV_CXX_FLAGS};
}

std::vector<std::string> cuda_architectures() {
  std::vector<std::string> architectures;
  std::istringstream list(RWKV_CUDA_ARCHITECTURES);
  for (std::string one; std::getline(list, one, ',');) architectures.push_back(one);
  return architectures;
}

std::string cuda_compiler_version() { return RWKV_CUDA_COMPILER; }

}  // namespace rwkv::trainer
