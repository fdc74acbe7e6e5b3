#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <string>

#include "data/base/atomic_file.h"
#include "data/base/checked.h"
#include "data/base/crc32c.h"
#include "data/base/error.h"
#include "data/base/mapped_file.h"

namespace rwkv {
namespace {

namespace fs = std::filesystem;

std::span<const std::byte> as_bytes(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

std::string read(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

class BaseFiles : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() / ("rwkv_base_" + std::to_string(::getpid()));
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }
  fs::path folder_;
};

TEST(Crc32c, CheckValueAndContinuation) {
  EXPECT_EQ(crc32c(as_bytes("123456789")), 0xE3069283U);
  EXPECT_EQ(crc32c(as_bytes("56789"), crc32c(as_bytes("1234"))), 0xE3069283U);
  EXPECT_EQ(crc32c({}), 0U);
}

TEST(Checked, RefusesWhatDoesNotFit) {
  constexpr int64_t kMax = std::numeric_limits<int64_t>::max();
  EXPECT_EQ(checked_add<int64_t>(kMax - 1, 1), kMax);
  EXPECT_FALSE(checked_add<int64_t>(kMax, 1));
  EXPECT_FALSE(checked_mul<int64_t>(kMax / 2, 3));
  EXPECT_FALSE(checked_narrow<int32_t>(int64_t{1} << 31));
  EXPECT_FALSE(checked_narrow<uint64_t>(int64_t{-1}));
}

TEST(Printable, KeepsOneLine) {
  EXPECT_EQ(printable("a\nb\tc\x1b"), "a\\nb\\tc\\x1b");
  EXPECT_EQ(printable("abcdef", 3), "abc...");
}

TEST(Printable, LeavesWholeCharactersAndEscapesOtherBytes) {
  EXPECT_EQ(printable("gr\u00fcn \u4e2d \U0001f600"), "gr\u00fcn \u4e2d \U0001f600");
  EXPECT_EQ(printable("\xff\xc3"), "\\xff\\xc3");
  EXPECT_EQ(printable("\xc0\xaf \xed\xa0\x80"), "\\xc0\\xaf \\xed\\xa0\\x80");
  EXPECT_EQ(printable("\xc2\x9b 31m"), "\\xc2\\x9b 31m");  // a terminal would obey U+009B
  EXPECT_EQ(printable("ab\u4e2d", 4), "ab...");
}

TEST_F(BaseFiles, AtomicFileLeavesOldContentUntilCommit) {
  const fs::path path = folder_ / "weights";
  write_file_atomically(path, "old");
  {
    AtomicFile file(path);
    file.write("half");
  }
  EXPECT_EQ(read(path), "old");
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_), {}), 1)
      << "a temporary file stayed behind";

  AtomicFile file(path);
  file.write("....new");
  file.write_at(0, as_bytes("head"));
  file.commit();
  EXPECT_EQ(read(path), "headnew");
}

TEST_F(BaseFiles, AtomicFileRemovesWhatKilledProcessesLeft) {
  const pid_t child = ::fork();
  if (child == 0) ::_exit(0);
  ::waitpid(child, nullptr, 0);  // no process has this number now
  const fs::path path = folder_ / "out.bin";
  const fs::path left = folder_ / fmt::format("out.bin.tmp-{}", child);
  const fs::path alive = folder_ / fmt::format("out.bin.tmp-{}", ::getppid());
  const fs::path other = folder_ / fmt::format("other.bin.tmp-{}", child);
  for (const fs::path& file : {left, alive, other}) std::ofstream(file) << "half";
  write_file_atomically(path, "whole");
  EXPECT_FALSE(fs::exists(left));
  EXPECT_TRUE(fs::exists(alive));
  EXPECT_TRUE(fs::exists(other));
}

TEST_F(BaseFiles, AtomicFileNamesTheFolderThatIsMissing) {
  try {
    AtomicFile file(folder_ / "absent" / "x");
    FAIL() << "no error";
  } catch (const UserError& error) {
    EXPECT_NE(std::string(error.what()).find("absent/x"), std::string::npos) << error.what();
  }
}

TEST_F(BaseFiles, MappedFileReadsRefusesAndNoticesChanges) {
  const fs::path path = folder_ / "data";
  write_file_atomically(path, "hello");
  const MappedFile file(path);
  ASSERT_EQ(file.size_bytes(), 5);
  EXPECT_EQ(std::memcmp(file.bytes().data(), "hello", 5), 0);
  EXPECT_NO_THROW(file.check_unchanged());
  fs::resize_file(path, 3);
  EXPECT_THROW(file.check_unchanged(), UserError);

  EXPECT_THROW(MappedFile(folder_ / "none"), UserError);
  EXPECT_THROW(MappedFile{folder_}, UserError);
  EXPECT_THROW(MappedFile("/dev/zero"), UserError);
}

}  // namespace
}  // namespace rwkv
