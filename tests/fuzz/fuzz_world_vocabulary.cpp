#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "data/base/error.h"
#include "data/tokenizers/world_tokenizer.h"

using namespace std::string_literals;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    const auto tokenizer = rwkv::data::world_tokenizer(
        std::string(reinterpret_cast<const char*>(data), size), "input");
    const std::string text = "any bytes \0\xff\xe4\xbd come back"s;
    if (tokenizer->decode(tokenizer->encode(text)) != text) std::abort();
  } catch (const rwkv::UserError&) {  // the only way to refuse
  }
  return 0;
}
