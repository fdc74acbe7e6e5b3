#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>

#include "data/base/error.h"
#include "model/formats/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    const auto contents =
        rwkv::formats::read_safetensors(std::as_bytes(std::span(data, size)), "input");
    size_t covered = 0;
    for (const rwkv::formats::TensorInfo& tensor : contents.tensors) {
      covered += tensor.contiguous_bytes().size();
    }
    if (covered > size) std::abort();
  } catch (const rwkv::UserError&) {  // the only way to refuse
  }
  return 0;
}
