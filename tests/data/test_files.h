#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <span>
#include <string>
#include <string_view>

#include "data/base/error.h"

namespace rwkv::testing {

/// A folder for the files of one test; it goes away with the test.
class FilesTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string name = (std::filesystem::temp_directory_path() / "rwkv_test_XXXXXX").string();
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    folder_ = name;
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  /// Writes `bytes` to the file `name` of the folder and returns its path.
  std::filesystem::path write(const std::string& name, std::string_view bytes) const {
    std::ofstream(folder_ / name, std::ios::binary) << bytes;
    return folder_ / name;
  }

  std::filesystem::path folder_;
};

inline std::string read_bytes(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

inline std::span<const std::byte> as_bytes(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

/// The message with which `function` refuses its input, which must be one line; "" when it does
/// not.
template <typename Function>
std::string refusal(Function&& function) {
  try {
    function();
  } catch (const UserError& error) {
    const std::string message = error.what();
    EXPECT_EQ(message.find('\n'), std::string::npos) << message;
    return message;
  }
  return "";
}

/// Expects a UserError whose message contains `fragment`.
#define EXPECT_REFUSED(statement, fragment)             \
  EXPECT_PRED_FORMAT2(::testing::IsSubstring, fragment, \
                      ::rwkv::testing::refusal([&] { static_cast<void>(statement); }))

/// Golden files of the originals.
inline std::filesystem::path golden_file(const std::string& name) {
  const char* folder = std::getenv("RWKV_GOLDEN_DIR");
  return std::filesystem::path(folder != nullptr ? folder : RWKV_GOLDEN_DIR_DEFAULT) / name;
}

}  // namespace rwkv::testing
