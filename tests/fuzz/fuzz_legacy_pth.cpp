#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "data/base/error.h"
#include "model/formats/pth_reader.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    const auto bytes = std::as_bytes(std::span(data, size));
    if (size < rwkv::formats::kLegacyPthMagic.size()) return 0;  // callers have seen the magic
    const auto contents = rwkv::formats::read_legacy_pth(bytes, "input");
    for (const rwkv::formats::TensorInfo& tensor : contents.tensors) {
      std::vector<std::byte> copy(static_cast<size_t>(tensor.size_bytes()));
      tensor.copy_row_major(copy);
    }
  } catch (const rwkv::UserError&) {  // the only way to refuse
  }
  return 0;
}
