#include "data/loss_mask.h"

#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "data/batch_loader.h"
#include "data/npy.h"
#include "tests/data/test_files.h"

namespace rwkv::data {
namespace {

using rwkv::testing::refusal;

class LossMask : public rwkv::testing::FilesTest {
 protected:
  void SetUp() override {
    FilesTest::SetUp();
    text_ =
        open_tokens({.path = write("text.txt", "abcdefghij").string(), .kind = SourceKind::kBytes});
  }
  std::unique_ptr<TokenSource> open(const std::filesystem::path& path) const {
    return open_loss_mask(path.string(), *text_, "data.loss_mask");
  }

  std::unique_ptr<TokenSource> text_;
};

const std::string kBytes = {0, 1, 0, 0, 1, 1, 0, 0, 0, 1};

TEST_F(LossMask, WeighsTheTargetsAndNotTheInputs) {
  const auto mask = open(write("mask.bin", kBytes));
  const std::vector<int64_t> offsets = {0, 3, 6};
  std::vector<float> weights(9);
  fill_loss_mask(*mask, offsets, 3, weights);
  // Targets are tokens 1 2 3, 4 5 6 and 7 8 9.
  EXPECT_EQ(weights, (std::vector<float>{1, 0, 0, 1, 1, 0, 0, 0, 1}));
}

TEST_F(LossMask, FollowsTheWindowsOfTheSampler) {
  // A mask that marks the text's vowels must mark exactly the targets that are vowels.
  const auto mask = open(write("mask.bin", std::string{1, 0, 0, 0, 1, 0, 0, 0, 1, 0}));
  const Sampler sampler({.kind = SamplerKind::kRandom, .seed = 7}, text_->size(), 4, "text");
  std::vector<int64_t> inputs(20);
  std::vector<int64_t> targets(20);
  std::vector<float> weights(20);
  fill_batch(*text_, sampler, 11, 5, 4, inputs, targets);
  fill_loss_mask(*mask, sampler, 11, 5, 4, weights);
  for (size_t i = 0; i < targets.size(); ++i) {
    const bool vowel = targets[i] == 'a' || targets[i] == 'e' || targets[i] == 'i';
    EXPECT_EQ(weights[i], vowel ? 1.0F : 0.0F) << i;
  }
}

TEST_F(LossMask, ReadsNumPyToo) {
  const std::vector<int64_t> values(kBytes.begin(), kBytes.end());
  write_npy(folder_ / "mask.npy", values, TokenType::kInt32);
  const auto mask = open(folder_ / "mask.npy");
  std::vector<float> weights(9);
  fill_loss_mask(*mask, std::vector<int64_t>{0}, 9, weights);
  EXPECT_EQ(weights, (std::vector<float>{1, 0, 0, 1, 1, 0, 0, 0, 1}));
}

TEST_F(LossMask, WhatDoesNotFitIsRefused) {
  EXPECT_REFUSED(open(write("short.bin", kBytes.substr(1))),
                 "data.loss_mask: " + (folder_ / "short.bin").string() + " has 9 numbers");
  EXPECT_REFUSED(open(write("text.bin", "0100110001")), "holds 48 for token 0");
  EXPECT_REFUSED(open(write("two.bin", kBytes.substr(0, 9) + '\2')), "holds 2 for token 9");
  EXPECT_REFUSED(open(write("zeros.bin", std::string(10, '\0'))), "is 0 everywhere");
  EXPECT_REFUSED(open(folder_ / "absent.bin"), "no such file");
}

TEST_F(LossMask, SizesThatDisagreeAreABug) {
  const auto mask = open(write("mask.bin", kBytes));
  std::vector<float> weights(5);
  EXPECT_THROW(fill_loss_mask(*mask, std::vector<int64_t>{0, 1}, 3, weights), std::logic_error);
}

}  // namespace
}  // namespace rwkv::data
