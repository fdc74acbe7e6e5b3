#include "model/inference/strategy.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <string>

#include "data/base/error.h"

namespace rwkv::model {
namespace {

const char* form_name(WeightForm form) {
  switch (form) {
    case WeightForm::kFp32:
      return "fp32";
    case WeightForm::kBf16:
      return "bf16";
    case WeightForm::kFp16:
      return "fp16";
    case WeightForm::kI8:
      return "i8";
    case WeightForm::kI8Seed:
      return "i8-seed";
  }
  return "?";
}

/// "0-9 cuda fp16; 10-24 cuda fp16 streamed"
std::string placement(const std::string& strategy, int64_t n_layer) {
  const std::vector<Slot> slots = plan_strategy(strategy, n_layer);
  EXPECT_EQ(std::ssize(slots), n_layer + 1);
  std::string text;
  for (size_t first = 0; first < slots.size();) {
    size_t end = first;
    while (end < slots.size() && slots[end] == slots[first]) ++end;
    text +=
        fmt::format("{}{}-{} {} {}{}", first == 0 ? "" : "; ", first, end - 1, slots[first].device,
                    form_name(slots[first].form), slots[first].streamed ? " streamed" : "");
    first = end;
  }
  return text;
}

// Placements that the rwkv package 0.8.32 prints for 24 layers. The head, slot 24, is never
// streamed.
TEST(Strategy, PlacesLayersAsTheRwkvPackageDoes) {
  EXPECT_EQ(placement("cuda fp16", 24), "0-24 cuda fp16");
  EXPECT_EQ(placement("cuda:0 fp16 -> cuda:1 fp16", 24), "0-11 cuda:0 fp16; 12-24 cuda:1 fp16");
  EXPECT_EQ(placement("cuda:0 fp16 *10 -> cuda:1 fp16 *8 -> cpu fp32", 24),
            "0-9 cuda:0 fp16; 10-17 cuda:1 fp16; 18-24 cpu fp32");
  EXPECT_EQ(placement("cuda fp16i8 *10 -> cuda fp16", 24), "0-9 cuda i8; 10-24 cuda fp16");
  EXPECT_EQ(placement("cuda fp16 *10+", 24),
            "0-9 cuda fp16; 10-23 cuda fp16 streamed; 24-24 cuda fp16");
  EXPECT_EQ(placement("cuda fp16i8 *10+ -> cpu fp32 *5", 24),
            "0-9 cuda i8; 10-19 cuda i8 streamed; 20-24 cpu fp32");
  EXPECT_EQ(placement("cuda fp16i8 -> cuda fp16 -> cpu fp32 *2", 24),
            "0-10 cuda i8; 11-22 cuda fp16; 23-24 cpu fp32");
  EXPECT_EQ(placement("cpu fp32 *3 -> cuda fp16 *6+", 24),
            "0-2 cpu fp32; 3-8 cuda fp16; 9-23 cuda fp16 streamed; 24-24 cuda fp16");
}

TEST(Strategy, CutsWhatIsTooMuchAndGivesTheRestToTheLastStage) {
  EXPECT_EQ(placement("cpu bf16 *100", 5), "0-5 cpu bf16");
  EXPECT_EQ(placement("cpu bf16 *4 -> cpu fp32 *100 -> cpu fp16", 5), "0-3 cpu bf16; 4-5 cpu fp32");
  EXPECT_EQ(placement("cpu fp32 *1 -> cpu bf16 *2", 5), "0-0 cpu fp32; 1-5 cpu bf16");
  EXPECT_EQ(placement("cpu fp32 *0+", 3), "0-2 cpu fp32 streamed; 3-3 cpu fp32");
  EXPECT_EQ(placement("cpu fp32 -> cpu bf16 *1+ -> cpu fp16", 3),
            "0-0 cpu bf16; 1-2 cpu bf16 streamed; 3-3 cpu bf16");
}

TEST(Strategy, ReadsSpacesAndLoneTypes) {
  EXPECT_EQ(placement("  cpu   fp32  *2->cpu bf16 ", 3), "0-1 cpu fp32; 2-3 cpu bf16");
  EXPECT_EQ(placement("bf16", 3), "0-3 cpu bf16");
  EXPECT_EQ(placement("i8", 3), "0-3 cpu i8");
  EXPECT_EQ(placement("i8-seed", 3), "0-3 cpu i8-seed");
  EXPECT_EQ(placement("fp16i8 *1 -> cpu fp32i8-seed", 3), "0-0 cpu i8; 1-3 cpu i8-seed");
}

TEST(Strategy, RefusesWithOneLineThatQuotesTheText) {
  for (const char* text :
       {"", "cpu", "cpu fp64", "gpu fp16", "cuda: fp16", "cuda:x fp16", "cpu fp32 *", "cpu fp32 *0",
        "cpu fp32 *-1", "cpu fp32 5", "cpu fp32 *2 *3", "cpu fp32 -> ", "-> cpu fp32", "cpu fp32i4",
        "cpu fp32i9", "cpu fp32 *99999999999999999999", "cpu i8"}) {
    try {
      plan_strategy(text, 12);
      ADD_FAILURE() << "'" << text << "' passed";
    } catch (const UserError& error) {
      const std::string message = error.what();
      EXPECT_NE(message.find(fmt::format("--strategy: '{}'", text)), std::string::npos) << message;
      EXPECT_EQ(message.find('\n'), std::string::npos) << message;
    }
  }
}

}  // namespace
}  // namespace rwkv::model
