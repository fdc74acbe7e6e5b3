#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <string>

namespace rwkv::testing {

/// A file that scripts/get-tokenizers gets; the test is skipped, and says so, where it is not.
inline std::filesystem::path tokenizer_file(const std::string& name) {
  const char* folder = std::getenv("RWKV_TOKENIZERS");
  return std::filesystem::path(folder != nullptr ? folder : RWKV_TOKENIZERS_DEFAULT) / name;
}
#define SKIP_WITHOUT(file)                                                                \
  if (!std::filesystem::exists(file)) {                                                   \
    GTEST_SKIP() << (file).filename() << " is not there; scripts/get-tokenizers gets it"; \
  }

}  // namespace rwkv::testing
