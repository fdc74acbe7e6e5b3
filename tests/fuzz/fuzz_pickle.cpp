#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>

#include "data/base/error.h"
#include "model/formats/pickle_reader.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    const auto pickle = rwkv::formats::read_pickle(std::as_bytes(std::span(data, size)), "input");
    if (pickle.bytes_used > size) std::abort();
    for (const rwkv::formats::PickleTensor& tensor : pickle.tensors) {
      if (tensor.storage >= pickle.storages.size()) std::abort();
    }
    if (pickle.root.is(rwkv::formats::PickleKind::dict)) (void)pickle.lookup(pickle.root, "w");
  } catch (const rwkv::UserError&) {  // the only way to refuse
  }
  return 0;
}
