#include "data/npy.h"

#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string_view>
#include <vector>

#include "tests/data/test_files.h"

namespace rwkv::data {
namespace {

using Ids = std::vector<int64_t>;

class NpyTest : public testing::FilesTest {
 protected:
  /// A file of version 1 with this header text and data.
  std::filesystem::path write_array(const std::string& header, std::string_view data) const {
    std::string bytes("\x93NUMPY\x01\x00", 8);
    bytes += static_cast<char>(header.size() & 0xff);
    bytes += static_cast<char>(header.size() >> 8);
    return write("a.npy", bytes + header + std::string(data));
  }
  static Ids read(const NpyFile& file) {
    Ids ids(static_cast<size_t>(file.view().size()));
    file.view().read(0, ids);
    return ids;
  }
};

TEST_F(NpyTest, WhatIsWrittenComesBack) {
  const Ids ids{0, 187, 510, 65535, 50276, 1, 2};
  for (const TokenType type : {TokenType::kUint16, TokenType::kInt32, TokenType::kInt64}) {
    write_npy(folder_ / "a.npy", ids, type);
    const NpyFile file(folder_ / "a.npy");
    EXPECT_EQ(file.view().type, type);
    EXPECT_EQ(read(file), ids);
    // numpy aligns the data to 64 bytes.
    EXPECT_EQ((file.file().size_bytes() - std::ssize(file.view().bytes)) % 64, 0);
  }
  EXPECT_REFUSED(write_npy(folder_ / "a.npy", Ids{65536}, TokenType::kUint16), "does not fit u16");
}

TEST_F(NpyTest, RowsOfFloatsAreWrittenAsNumpyWould) {
  const std::vector<float> values{1.0F, -2.5F, 3.0F, 0.0F, 1e-30F, 6.0F};
  write_npy(folder_ / "a.npy", values, 3);
  const MappedFile file(folder_ / "a.npy");
  const std::string_view text(reinterpret_cast<const char*>(file.bytes().data()),
                              file.bytes().size());
  EXPECT_EQ(text.substr(10, 57), "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3),");
  ASSERT_EQ(text.size(), 128 + 24U);
  EXPECT_EQ(std::memcmp(text.data() + 128, values.data(), 24), 0);
  EXPECT_THROW(write_npy(folder_ / "b.npy", values, 4), std::logic_error);
}

TEST_F(NpyTest, HeadersThatNumpyAcceptsAreRead) {
  const std::vector<std::string> headers{
      "{'descr': '<u2', 'fortran_order': False, 'shape': (2,), }\n",
      "{\"shape\": (2,), \"fortran_order\": True, \"descr\": \"<u2\"}",
      "{ 'fortran_order':False,'descr':'<u2','shape':( 2 , ) }   \n",
      "{'descr': '<u2', 'fortran_order': False, 'shape': (2)}",
  };
  for (const std::string& header : headers) {
    const NpyFile file(write_array(header, std::string_view("\x01\x00\xff\xff", 4)));
    EXPECT_EQ(read(file), (Ids{1, 65535})) << header;
  }
  const std::string header = headers.front();
  std::string bytes("\x93NUMPY\x02\x00", 8);
  bytes +=
      std::string{static_cast<char>(header.size()), 0, 0, 0} + header + std::string("\1\0\2\0", 4);
  EXPECT_EQ(read(NpyFile(write("v2.npy", bytes))), (Ids{1, 2}));
}

TEST_F(NpyTest, OtherArraysAreRefusedWithTheirReason) {
  const auto with = [this](const std::string& header, std::string_view data = "abcd") {
    return write_array(header, data);
  };
  const auto typed = [](const std::string& descr, const std::string& shape = "(2,)") {
    return "{'descr': " + descr + ", 'fortran_order': False, 'shape': " + shape + "}";
  };
  EXPECT_REFUSED(NpyFile(with(typed("'>u2'"))), "big endian");
  EXPECT_REFUSED(NpyFile(with(typed("'<f4'"))), "are no tokens");
  EXPECT_REFUSED(NpyFile(with(typed("'|O'"))), "'|O' are no tokens");
  EXPECT_REFUSED(NpyFile(with(typed("[('a', '<u2')]"))), "record array");
  EXPECT_REFUSED(NpyFile(with(typed("'<u2'", "(1, 2)"))), "2 dimensions");
  EXPECT_REFUSED(NpyFile(with(typed("'<u2'", "()"))), "0 dimensions");
  EXPECT_REFUSED(NpyFile(with(typed("'<u2'", "(3,)"))), "3 tokens of u16 announced, but 4 bytes");
  EXPECT_REFUSED(NpyFile(with(typed("'<u2'", "(1,)"))), "announced");
  EXPECT_REFUSED(NpyFile(with(typed("'<u2'", "(9223372036854775807,)"))), "announced");
  EXPECT_REFUSED(NpyFile(with(typed("'<u2'", "(99999999999999999999,)"))), "a size expected");
  EXPECT_REFUSED(NpyFile(with(typed("'<u2'", "(-1,)"))), "a size expected");
  EXPECT_REFUSED(NpyFile(with("{'descr': '<u2'}")), "is missing");
  EXPECT_REFUSED(NpyFile(with("{'descr': '<u2', 'descr': '<u2'}")), "repeated key");
  EXPECT_REFUSED(NpyFile(with("{'descr': '<u2")), "does not end");
  EXPECT_REFUSED(NpyFile(with("__import__('os')")), "'{' expected");
  EXPECT_REFUSED(NpyFile(with(typed("'<u2'") + "x")), "after the closing brace");
  EXPECT_REFUSED(NpyFile(write("a.npy", "PK\3\4")), "no .npy file");
  EXPECT_REFUSED(NpyFile(write("a.npy", "\x93NUMPY\x01")), "truncated");
  EXPECT_REFUSED(NpyFile(write("a.npy", std::string("\x93NUMPY\x09\x00\x10\x00{}", 12))),
                 "version 9");
  EXPECT_REFUSED(NpyFile(write("a.npy", std::string("\x93NUMPY\x01\x00\xff\x10{}", 12))),
                 "truncated");
  EXPECT_REFUSED(NpyFile(write("a.npy", std::string("\x93NUMPY\x02\x00\xff\xff\xff\xff", 12))),
                 "claims 4294967295 bytes");
}

}  // namespace
}  // namespace rwkv::data
