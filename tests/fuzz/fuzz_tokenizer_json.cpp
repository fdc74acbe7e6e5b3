#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "data/base/error.h"
#include "data/tokenizers/bpe_tokenizer.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    const auto tokenizer =
        rwkv::data::bpe_tokenizer(std::string(reinterpret_cast<const char*>(data), size), "input");
    const std::string text = "it's 25  tests,\n\na<|endoftext|>\u00e9";
    const auto ids = tokenizer->encode(text);
    for (const int64_t id : ids) {
      if (id < 0 || id >= tokenizer->size()) std::abort();
    }
    if (tokenizer->decode(ids).size() < text.size()) std::abort();
  } catch (const rwkv::UserError&) {  // the only way to refuse
  }
  return 0;
}
