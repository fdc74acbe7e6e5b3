#include "model/sampling.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>
#include <numeric>
#include <vector>

#include "data/base/error.h"
#include "model/penalties.h"

// The probabilities themselves are compared with the originals' in tests/golden.

namespace rwkv::model {
namespace {

std::vector<double> probabilities(const SamplingConfig& config, const std::vector<double>& p) {
  const at::Tensor logits = torch::tensor(p, at::kDouble).log();
  const at::Tensor result = next_token_probabilities(logits, config).contiguous();
  const auto* values = result.const_data_ptr<double>();
  return {values, values + result.numel()};
}

SamplingConfig with(Sampler sampler) {
  SamplingConfig config;
  config.top_p = 1;
  config.sampler = sampler;
  return config;
}

TEST(Sampler, TopKKeepsTheLowerIdOfEquals) {
  SamplingConfig config = with(Sampler::kChatRwkv);
  config.top_k = 2;
  const auto p = probabilities(config, {0.2, 0.4, 0.2, 0.2});
  EXPECT_NEAR(p[0], 1.0 / 3, 1e-6);
  EXPECT_EQ(p[2], 0);
  EXPECT_EQ(p[3], 0);
  config.sampler = Sampler::kRwkvV1;  // there equals of the last one stay
  EXPECT_NEAR(probabilities(config, {0.2, 0.4, 0.2, 0.2})[3], 0.2, 1e-6);
}

TEST(Sampler, TopPOfOneKeepsEverythingThoughRoundingLeavesTheSumShort) {
  const std::vector<double> many(50000, 1.0 / 50000);
  for (const Sampler sampler : {Sampler::kChatRwkv, Sampler::kRwkvLm, Sampler::kRwkvV1}) {
    const auto p = probabilities(with(sampler), many);
    EXPECT_EQ(std::count(p.begin(), p.end(), 0.0), 0);
  }
}

TEST(Sampler, TopPOfZeroKeepsTheLikeliest) {
  SamplingConfig config = with(Sampler::kChatRwkv);
  config.top_p = 0;
  EXPECT_EQ(probabilities(config, {0.3, 0.6, 0.1}), (std::vector<double>{0, 1, 0}));
}

TEST(Sampler, ReachingAndExceedingDifferAtTheBorder) {
  SamplingConfig config = with(Sampler::kChatRwkv);
  config.top_p = 0.5;
  const std::vector<double> p{0.5, 0.25, 0.25};  // exact in binary
  EXPECT_EQ(probabilities(config, p)[1], 0);
  config.sampler = Sampler::kRwkvLm;
  EXPECT_NEAR(probabilities(config, p)[1], 0.25, 1e-6);
}

TEST(Sampler, TopAScalesItsLimitWithTheLikeliest) {
  SamplingConfig config = with(Sampler::kChatRwkv);
  config.top_a = 0.2;
  EXPECT_EQ(probabilities(config, {0.9, 0.08, 0.02})[1], 0);  // 0.2 * 0.81 = 0.162
  EXPECT_GT(probabilities(config, {0.5, 0.44, 0.06})[2], 0);  // 0.2 * 0.25 = 0.05
}

TEST(Sampler, TemperatureIsLastInOneAndFirstInAnother) {
  const std::vector<double> p{0.6, 0.3, 0.1};
  SamplingConfig config = with(Sampler::kChatRwkv);
  config.temperature = 0.25;
  config.top_p = 0.85;
  EXPECT_GT(probabilities(config, p)[1], 0);  // 0.6 alone does not reach 0.85
  config.sampler = Sampler::kRwkvV1;
  EXPECT_EQ(probabilities(config, p)[1], 0);  // cooled first, it does
}

TEST(Sampler, TypicalDropsTheMostAndTheLeastLikely) {
  SamplingConfig config = with(Sampler::kTypical);
  config.typical_mass = 0.3;
  // H = 1.36 nats: of -ln P = 0.69, 1.39, 2.08, 2.08 the second is nearest, and not enough.
  const auto p = probabilities(config, {0.5, 0.25, 0.125, 0.125});
  EXPECT_GT(p[1], 0);
  EXPECT_EQ(p[2], 0);
}

TEST(Sampler, RefusesFiltersThatItDoesNotHaveAndValuesOutOfRange) {
  SamplingConfig config = with(Sampler::kTypical);
  config.top_k = 3;
  EXPECT_THROW(check(config, "--"), UserError);
  config = with(Sampler::kChatRwkv);
  config.typical_mass = 0.5;
  EXPECT_THROW(check(config, ""), UserError);
  config = with(Sampler::kChatRwkv);
  config.top_k = -1;
  try {
    check(config, "--");
    FAIL() << "top_k -1 passed";
  } catch (const UserError& error) {
    EXPECT_NE(std::string(error.what()).find("--top-k: -1"), std::string::npos) << error.what();
  }
}

TEST(Sampler, InfiniteLogitsAreAnError) {
  EXPECT_THROW(next_token_probabilities(torch::tensor({0.0, double(INFINITY)}), {}), UserError);
}

TEST(Penalties, PresenceStaysFrequencyFades) {
  const PenaltyConfig config{.presence_penalty = 0.5, .frequency_penalty = 1, .penalty_decay = 0.5};
  Occurrence seen;
  count_token(seen, 1, 1, config);
  count_token(seen, 2, 1, config);
  count_token(seen, 1, 1, config);
  at::Tensor logits = at::zeros({4});
  apply_penalties(logits, seen, config);
  EXPECT_FLOAT_EQ(logits[1].item<float>(), -0.5F - 1.25F);
  EXPECT_FLOAT_EQ(logits[2].item<float>(), -0.5F - 0.5F);
  EXPECT_EQ(logits[3].item<float>(), 0);
}

TEST(Penalties, RepetitionPushesBothSignsDown) {
  const PenaltyConfig config{.repetition_penalty = 2};
  at::Tensor logits = torch::tensor({3.0F, -3.0F, 1.0F});
  apply_penalties(logits, {{0, 1.0}, {1, 1.0}}, config);
  EXPECT_TRUE(at::equal(logits, torch::tensor({1.5F, -6.0F, 1.0F})));
}

TEST(Penalties, NumbersDoNotCountInThePackage) {
  const auto weight = [](std::string_view text) {
    return penalty_weight(PenaltyWeight::kNotDigits, 300, text);
  };
  for (const char* text : {"", " ", "1", "12", "345", " \t"}) EXPECT_EQ(weight(text), 0) << text;
  for (const char* text : {"10", "31", " 1", "a"}) EXPECT_EQ(weight(text), 1) << text;
  EXPECT_EQ(penalty_weight(PenaltyWeight::kMusic, 126, "x"), 0.3);
  EXPECT_EQ(penalty_weight(PenaltyWeight::kEvery, 126, "1"), 1);
}

TEST(Draws, AStreamGoesOnFromItsPosition) {
  DrawStream whole(9);
  for (int i = 0; i < 5; ++i) whole.next();
  DrawStream rest(9, whole.position());
  EXPECT_EQ(rest.position(), 5U);
  EXPECT_EQ(rest.next(), whole.next());
}

}  // namespace
}  // namespace rwkv::model
