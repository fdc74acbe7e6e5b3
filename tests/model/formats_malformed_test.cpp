#include <gtest/gtest.h>

#include <chrono>
#include <string>
#include <vector>

#include "tests/model/malformed_cases.h"

// Every malformed weight file of the tables is refused by the library; tests/apps/malformed_test
// does the same with the program.
namespace rwkv::formats::testing {
namespace {

size_t count(const std::vector<MalformedGroup>& groups) {
  size_t n = 0;
  for (const MalformedGroup& group : groups) n += group.cases.size();
  return n;
}

void expect_all_refused(const std::vector<MalformedGroup>& groups) {
  for (const MalformedGroup& group : groups) {
    SCOPED_TRACE(group.name);
    expect_refused(group.cases);
  }
}

std::string with_value(const std::string& value) { return pth(dict_of(text("w") + value)); }

TEST(FormatsMalformed, OtherKindsOfFilesAreNamed) { expect_refused(files_of_other_kinds()); }

TEST(FormatsMalformed, BrokenPthFilesAreRefused) { expect_all_refused(malformed_pth()); }

TEST(FormatsMalformed, BrokenLegacyPthFilesAreRefused) { expect_refused(malformed_legacy_pth()); }

TEST(FormatsMalformed, BrokenSafetensorsAreRefused) { expect_refused(malformed_safetensors()); }

// At least 90 and 36 were promised; what is there must not shrink unseen.
TEST(FormatsMalformed, TheTablesAreAsLongAsPromised) {
  EXPECT_GE(count(malformed_pth()), 170U);
  EXPECT_GE(malformed_legacy_pth().size(), 26U);
  EXPECT_GE(malformed_safetensors().size(), 60U);
  EXPECT_GE(controls_that_load().size(), 22U);
}

TEST(FormatsMalformed, ControlsLoad) {
  for (const Case& c : controls_that_load()) {
    SCOPED_TRACE(c.name);
    EXPECT_EQ(refusal(c.bytes), "");
  }
}

/// Every prefix of a file must be refused, and nothing but a UserError may come out.
void expect_prefixes_refused(const std::string& good) {
  for (size_t length = 0; length < good.size(); ++length) {
    EXPECT_NE(refusal(good.substr(0, length)), "") << "first " << length << " bytes";
  }
}

TEST(FormatsMalformed, EveryTruncationIsRefused) {
  expect_prefixes_refused(tiny_pth());
  expect_prefixes_refused(tiny_safetensors());
}

/// Each byte replaced in turn: accepted or a UserError, never a crash or another exception. Returns
/// how many were accepted.
size_t count_accepted_flips(const std::string& good) {
  size_t accepted = 0;
  for (size_t i = 0; i < good.size(); ++i) {
    for (const unsigned flip : {0x01U, 0x20U, 0x80U, 0xffU}) {
      std::string bytes = good;
      bytes[i] = static_cast<char>(static_cast<unsigned char>(bytes[i]) ^ flip);
      if (refusal(bytes).empty()) ++accepted;
    }
  }
  return accepted;
}

TEST(FormatsMalformed, FlippedBytesAreRefusedOrHarmless) {
  // What passes: times, versions and attributes of the zip, which no reader minds.
  const std::string good_pth = tiny_pth();
  EXPECT_LT(count_accepted_flips(good_pth), good_pth.size());
  // safetensors has no checksum: flipped data is still data.
  const std::string good_safetensors = tiny_safetensors();
  EXPECT_LT(count_accepted_flips(good_safetensors), good_safetensors.size() * 2);
}

TEST(FormatsMalformed, FlippedPickleBytesNeverCrash) {
  // Past the checksum, straight into the pickle reader and the tensor checks.
  const std::string pickle = dict_of(item({}));
  size_t accepted = 0;
  for (size_t i = 0; i < pickle.size(); ++i) {
    for (unsigned value = 0; value < 256; ++value) {
      std::string changed = pickle;
      changed[i] = static_cast<char>(value);
      if (refusal(pth(changed)).empty()) ++accepted;
    }
  }
  EXPECT_LT(accepted, pickle.size() * 64);
}

TEST(FormatsMalformed, DeepNestingIsRefusedAtOnce) {
  const auto start = std::chrono::steady_clock::now();
  EXPECT_NE(refusal(with_value(repeated("(", 1'000'000))), "");
  EXPECT_NE(refusal(with_value(repeated("\x85", 1'000'000))), "");
  EXPECT_NE(refusal(with_value("N" + repeated("\x85", 5'000'000))), "");
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(20));
}

TEST(FormatsMalformed, MessagesNameTheByteOfThePickle) {
  const std::string message = refusal(pth("\x80\x02}" + global("os", "system") + "."));
  EXPECT_NE(message.find("byte 3 of the pickle"), std::string::npos) << message;
}

}  // namespace
}  // namespace rwkv::formats::testing
