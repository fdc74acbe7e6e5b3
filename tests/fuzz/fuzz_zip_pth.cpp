#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "data/base/error.h"
#include "model/formats/pth_reader.h"

// Zip directory, pickle and tensor checks of a .pth. Mutations of the pickle pass only where the
// seed has no checksums; fuzz_pickle goes there directly.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    const auto contents = rwkv::formats::read_pth(std::as_bytes(std::span(data, size)), "input");
    for (const rwkv::formats::TensorInfo& tensor : contents.tensors) {
      std::vector<std::byte> copy(static_cast<size_t>(tensor.size_bytes()));
      tensor.copy_row_major(copy);
      rwkv::formats::verify_checksum(tensor, "input");
    }
  } catch (const rwkv::UserError&) {  // the only way to refuse
  }
  return 0;
}
