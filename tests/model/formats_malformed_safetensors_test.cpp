#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/model/formats_support.h"

// Malformed .safetensors files, each with a part of the message that a user must get: at least 36
// of them.
namespace rwkv::formats::testing {
namespace {

std::string header_of(const std::string& entry) { return "{\"w\":{" + entry + "}}"; }

std::vector<Case> broken_safetensors() {
  const std::string entry = R"("w":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]})";
  const std::string six = six_floats();
  const auto one = [&](const std::string& fields) { return safetensors(header_of(fields), six); };
  const std::string good = tiny_safetensors();
  const std::string second = R"("b":{"dtype":"F32","shape":[1],"data_offsets":)";
  return {
      {"7 bytes", good.substr(0, 7), "is no weight file"},
      {"only the length", good.substr(0, 8), "cut short"},
      {"header cut short", good.substr(0, 60), "cut short"},
      {"data cut short", good.substr(0, good.size() - 1), "cut short"},
      {"data too long", good + "x", "1 bytes follow the last tensor"},
      {"header length 0", le64(0) + "{}xx", "begin with '{'"},
      {"header length 2^63", le64(1ULL << 63) + "{}", "at most 100000000"},
      {"header length 2^64-1", le64(~0ULL) + "{}", "at most 100000000"},
      {"header length 100000001", le64(100'000'001) + "{}", "at most 100000000"},
      {"header length beyond file", le64(50'000'000) + "{}", "cut short"},
      {"leading space", safetensors(" {" + entry + "}", six), "begin with '{'"},
      {"header is a list", safetensors("[1]", ""), "begin with '{'"},
      {"byte order mark", safetensors("\xef\xbb\xbf{}", ""), "begin with '{'"},
      {"header not closed", safetensors("{" + entry, six), "no valid JSON"},
      {"text after the header", safetensors("{" + entry + "}x", six), "no valid JSON"},
      {"zeros after the header", safetensors("{" + entry + "}" + std::string(3, '\0'), six),
       "a zero byte"},
      {"two headers", safetensors("{}{}", ""), "no valid JSON"},
      {"comment in the header", safetensors("{/*x*/}", ""), "no valid JSON"},
      {"trailing comma", safetensors("{" + entry + ",}", six), "no valid JSON"},
      {"single quotes", safetensors("{'w':1}", six), "no valid JSON"},
      {"no UTF-8", safetensors("{\"\xff\":1}", six), "no valid JSON"},
      {"lone surrogate", safetensors("{\"\\ud800\":1}", six), "no valid JSON"},
      {"duplicate tensor", safetensors("{" + entry + "," + entry + "}", six), "a repeated name"},
      {"duplicate metadata",
       safetensors(R"({"__metadata__":{},"__metadata__":{},)" + entry + "}", six),
       "a repeated name"},
      {"duplicate key", one(R"("dtype":"F32","dtype":"F16","shape":[2,3],"data_offsets":[0,24])"),
       "a repeated key \"dtype\""},
      {"duplicate in metadata", safetensors(R"({"__metadata__":{"a":"1","a":"2"}})", ""),
       "a repeated key \"a\""},
      {"metadata of a number", safetensors(R"({"__metadata__":{"a":1}})", ""), "the number 1"},
      {"metadata is null", safetensors(R"({"__metadata__":null})", ""), "null where"},
      {"metadata nested", safetensors(R"({"__metadata__":{"a":{}}})", ""), "an object where"},
      {"tensor is a number", safetensors(R"({"w":3})", ""), "the number 3"},
      {"tensor is a string", safetensors(R"({"w":"F32"})", ""), "a string where"},
      {"tensor is a list", safetensors(R"({"w":[]})", ""), "an array where"},
      {"no dtype", one(R"("shape":[2,3],"data_offsets":[0,24])"), "without dtype"},
      {"no shape", one(R"("dtype":"F32","data_offsets":[0,24])"), "without dtype"},
      {"no offsets", one(R"("dtype":"F32","shape":[2,3])"), "without dtype"},
      {"unknown key", one(R"("dtype":"F32","shape":[2,3],"stride":[1],"data_offsets":[0,24])"),
       "unknown key \"stride\""},
      {"unknown dtype", one(R"("dtype":"F4","shape":[2,3],"data_offsets":[0,24])"),
       "unknown dtype \"F4\""},
      {"dtype lower case", one(R"("dtype":"f32","shape":[2,3],"data_offsets":[0,24])"),
       "unknown dtype"},
      {"dtype is a number", one(R"("dtype":1,"shape":[2,3],"data_offsets":[0,24])"), "number 1"},
      {"negative size", one(R"("dtype":"F32","shape":[-2,-3],"data_offsets":[0,24])"), "negative"},
      {"fractional size", one(R"("dtype":"F32","shape":[2.0,3],"data_offsets":[0,24])"),
       "number 2.0"},
      {"size 1e1", one(R"("dtype":"F32","shape":[1e1],"data_offsets":[0,24])"), "number 1e1"},
      {"size is text", one(R"("dtype":"F32","shape":["2"],"data_offsets":[0,24])"), "a string"},
      {"size true", one(R"("dtype":"F32","shape":[true],"data_offsets":[0,24])"), "true or false"},
      {"size null", one(R"("dtype":"F32","shape":[null],"data_offsets":[0,24])"), "null"},
      {"size nested", one(R"("dtype":"F32","shape":[[2]],"data_offsets":[0,24])"),
       "an array where"},
      {"size 2^63", one(R"("dtype":"F32","shape":[9223372036854775808],"data_offsets":[0,24])"),
       "number 9223372036854775808"},
      {"size 2^70", one(R"("dtype":"F32","shape":[1180591620717411303424],"data_offsets":[0,24])"),
       "number 1180591620717411303424"},
      {"shape wraps around",
       one(R"("dtype":"F32","shape":[4611686018427387904,4,6],"data_offsets":[0,24])"),
       "not shape"},
      {"a zero hides an overflow",
       safetensors(
           header_of(R"("dtype":"F32","shape":[4611686018427387904,16,0],"data_offsets":[0,0])"),
           ""),
       "not shape"},
      {"shape too large", one(R"("dtype":"F32","shape":[2,4],"data_offsets":[0,24])"), "not shape"},
      {"shape too small", one(R"("dtype":"F32","shape":[2,2],"data_offsets":[0,24])"), "not shape"},
      {"scalar of 24 bytes", one(R"("dtype":"F32","shape":[],"data_offsets":[0,24])"), "not shape"},
      {"65 dimensions",
       one(R"("dtype":"F32","shape":[)" + repeated("1,", 64) + R"(1],"data_offsets":[0,24])"),
       "more than 64"},
      {"three offsets", one(R"("dtype":"F32","shape":[2,3],"data_offsets":[0,12,24])"),
       "other than two"},
      {"one offset", one(R"("dtype":"F32","shape":[2,3],"data_offsets":[24])"), "other than two"},
      {"offsets reversed", one(R"("dtype":"F32","shape":[2,3],"data_offsets":[24,0])"),
       "gap or overlap"},
      {"begins late", one(R"("dtype":"F32","shape":[1],"data_offsets":[4,8])"), "gap or overlap"},
      {"ends beyond the data", one(R"("dtype":"F32","shape":[3,3],"data_offsets":[0,36])"),
       "cut short"},
      {"huge end",
       one(R"("dtype":"U8","shape":[9223372036854775807],"data_offsets":[0,9223372036854775807])"),
       "cut short"},
      {"hole", safetensors("{" + entry + "," + second + "[28,32]}}", six + "12345678"),
       "gap or overlap"},
      {"overlap", safetensors("{" + entry + "," + second + "[20,24]}}", six), "gap or overlap"},
      {"same place twice", safetensors("{" + entry + "," + second + "[0,4]}}", six),
       "gap or overlap"},
      {"unused bytes at the end", safetensors("{" + entry + "}", six + "1234"), "4 bytes follow"},
      {"100,000 nested lists", safetensors("{\"w\":" + repeated("[", 100'000), ""),
       "an array where"},
      {"100,000 nested objects", safetensors(repeated("{\"w\":", 100'000), ""), "unknown key"},
      {"escape codes in a name", safetensors("{\"\\u001b[2J\":3}", ""), "\\x1b[2J"},
  };
}

TEST(FormatsMalformed, BrokenSafetensorsAreRefused) { expect_refused(broken_safetensors()); }

TEST(FormatsMalformed, TheTableOfSafetensorsCasesIsAsLongAsPromised) {
  EXPECT_GE(broken_safetensors().size(), 36U);
}

}  // namespace
}  // namespace rwkv::formats::testing
