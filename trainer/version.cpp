#include "trainer/version.h"

#include <torch/headeronly/version.h>

namespace rwkv::trainer {

std::string version_text() {
  return std::string(RWKV_VERSION) + " (commit " + RWKV_COMMIT + ", LibTorch " + TORCH_VERSION +
         ")";
}

}  // namespace rwkv::trainer
