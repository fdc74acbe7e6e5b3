#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "data/base/error.h"
#include "data/base/utf8.h"
#include "data/jsonl.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view line(reinterpret_cast<const char*>(data), size);
  try {
    const std::string text = rwkv::data::jsonl_text(line, "text", "input", 1);
    if (rwkv::find_ill_formed_utf8(text) != std::string::npos) std::abort();
  } catch (const rwkv::UserError&) {  // the only way to refuse
  }
  return 0;
}
