#include "trainer/schedule.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "data/base/error.h"

namespace rwkv::trainer {
namespace {

RunConfig with_schedule(const std::string& schedule) {
  return parse_run_config("data: {path: x}\ntrain: {max_steps: 1000}\nschedule: " + schedule + "\n",
                          "run.yaml");
}

Schedule make(const std::string& schedule) {
  const RunConfig config = with_schedule(schedule);
  return {config.schedule, config.optimizer, config.train.ctx_len, config.train.real_bsz()};
}

SchedulePosition at_step(int64_t step) { return {step, step * 1024 * 12, step}; }
SchedulePosition at_tokens(int64_t tokens) {
  return {tokens / (1024 * 12), tokens, tokens / (1024 * 12)};
}

// RWKV-LM README: the learning rate and betas of RWKV-3 1.5B on the Pile.
TEST(Segments, ReadmeScheduleByTokens) {
  const Schedule schedule = make(
      "{segments: [{until: 15e9, lr: {constant: 3e-4}, betas: [0.9, 0.99]},"
      " {until: 332e9, lr: {exp: [3e-4, 1e-5]}, betas: [0.9, 0.999]}], after: 1e-5}");
  EXPECT_EQ(schedule.at(at_tokens(0)).lr, 3e-4);
  const SchedulePoint last_flat = schedule.at(at_tokens(14'999'999'999));
  EXPECT_EQ(last_flat.lr, 3e-4);
  EXPECT_EQ(last_flat.betas[1], 0.99);
  const SchedulePoint first_decay = schedule.at(at_tokens(15'000'000'000));
  EXPECT_EQ(first_decay.lr, 3e-4);
  EXPECT_EQ(first_decay.betas[1], 0.999);
  EXPECT_NEAR(schedule.at(at_tokens(50'000'000'000)).lr, 2.060782e-4, 1e-10);
  EXPECT_NEAR(schedule.at(at_tokens(100'000'000'000)).lr, 1.205168e-4, 1e-10);
  EXPECT_NEAR(schedule.at(at_tokens(173'500'000'000)).lr, 5.477226e-5, 1e-11);
  const SchedulePoint after = schedule.at(at_tokens(400'000'000'000));
  EXPECT_EQ(after.lr, 1e-5);
  EXPECT_EQ(after.betas[1], 0.999);
  EXPECT_FALSE(after.finished);
}

TEST(Segments, CurvesAtTheirBoundaries) {
  const Schedule schedule = make(
      "{unit: steps, segments: [{until: 100, lr: {linear: [0, 1e-3]}},"
      " {until: 200, lr: {cosine: [1e-3, 1e-4]}}, {until: 300, lr: {hyperbola: {lr: 1e-4, rate: "
      "0.01}}}]}");
  const auto lr = [&](int64_t step) { return schedule.at(at_step(step)).lr; };
  EXPECT_EQ(lr(0), 0.0);
  EXPECT_DOUBLE_EQ(lr(50), 5e-4);
  EXPECT_DOUBLE_EQ(lr(99), 9.9e-4);
  EXPECT_DOUBLE_EQ(lr(100), 1e-3);
  EXPECT_DOUBLE_EQ(lr(150), 5.5e-4);
  EXPECT_DOUBLE_EQ(lr(200), 1e-4);
  EXPECT_DOUBLE_EQ(lr(299), 1e-4 / 1.99);
  EXPECT_DOUBLE_EQ(lr(300), 5e-5);
  EXPECT_EQ(lr(300), lr(1'000'000));
  EXPECT_EQ(schedule.lr_init(), 0.0);
}

TEST(Segments, WarmupActsOnTheFirstStepsOnly) {
  const Schedule schedule = make(
      "{unit: steps, warmup: {steps: 10, floor: 0.2}, segments: [{until: 100, lr: {constant: "
      "1e-3}}]}");
  EXPECT_DOUBLE_EQ(schedule.at(at_step(0)).lr, 2e-4);
  EXPECT_DOUBLE_EQ(schedule.at(at_step(5)).lr, 6e-4);
  EXPECT_DOUBLE_EQ(schedule.at(at_step(9)).lr, 9.2e-4);
  EXPECT_EQ(schedule.at(at_step(10)).lr, 1e-3);
  EXPECT_EQ(schedule.lr_init(), 1e-3);
}

TEST(Segments, WarmupAfterResumeOnlyWithoutMoments) {
  const Schedule schedule = make(
      "{unit: steps, warmup: {after_resume: 4}, segments: [{until: 100, lr: {constant: 1e-3}}]}");
  EXPECT_EQ(schedule.at({50, 0, 50}).lr, 1e-3);
  EXPECT_EQ(schedule.at({50, 0, 0}).lr, 0.0);
  EXPECT_DOUBLE_EQ(schedule.at({52, 0, 2}).lr, 5e-4);
  EXPECT_EQ(schedule.at({54, 0, 4}).lr, 1e-3);
}

TEST(Segments, BatchSizeAndBetasComeFromTheSegment) {
  const Schedule schedule = make(
      "{unit: steps, segments: [{until: 10, lr: {constant: 1e-3}, real_bsz: 24},"
      " {until: 20, lr: {constant: 1e-3}, betas: [0.8, 0.9]}]}");
  EXPECT_EQ(schedule.at(at_step(9)).real_bsz, 24);
  EXPECT_EQ(schedule.at(at_step(9)).betas, (std::array<double, 2>{0.9, 0.99}));
  EXPECT_FALSE(schedule.at(at_step(10)).real_bsz);
  EXPECT_EQ(schedule.at(at_step(10)).betas, (std::array<double, 2>{0.8, 0.9}));
  EXPECT_EQ(schedule.at(at_step(99)).betas, (std::array<double, 2>{0.8, 0.9}));
}

TEST(Segments, WeightDecayFollowsTheWholeSchedule) {
  OptimizerConfig optimizer;
  optimizer.weight_decay = 0.1;
  optimizer.weight_decay_final = 0.001;
  const RunConfig config = with_schedule(
      "{unit: steps, segments: [{until: 50, lr: {constant: 1e-3}}, {until: 100, lr: {constant: "
      "1e-4}}]}");
  const Schedule schedule(config.schedule, optimizer, 1024, 12);
  EXPECT_DOUBLE_EQ(schedule.at(at_step(0)).weight_decay, 0.1);
  EXPECT_DOUBLE_EQ(schedule.at(at_step(50)).weight_decay, 0.01);
  EXPECT_DOUBLE_EQ(schedule.at(at_step(500)).weight_decay, 0.001);
}

// RWKV-LM, RWKV-v7/train_temp/README.md: rates at the last step of mini-epochs 0 ... 11 on
// minipile.
TEST(Rwkv7, MinipileRatesOfItsReadme) {
  ScheduleConfig config;
  config.kind = ScheduleKind::kRwkv7;
  config.lr_init = 6e-4;
  config.lr_final = 6e-5;
  config.warmup_steps = 10;
  config.epoch_steps = 2520;
  config.epoch_count = 72;
  config.my_exit_tokens = 1498226207;
  const Schedule schedule(config, OptimizerConfig{}, 512, 16);
  const std::vector<double> published = {0.00059975, 0.00059899, 0.00059773, 0.00059597,
                                         0.00059371, 0.00059096, 0.00058771, 0.00058399,
                                         0.00057978, 0.00057511, 0.00056999, 0.00056441};
  for (size_t epoch = 0; epoch < published.size(); ++epoch) {
    const auto step = static_cast<int64_t>(epoch + 1) * 2520 - 1;
    EXPECT_NEAR(schedule.at(at_step(step)).lr, published[epoch], 5.1e-9) << epoch;
  }
  EXPECT_DOUBLE_EQ(schedule.at(at_step(0)).lr, 6e-6);
}

TEST(Rwkv4neo, PlateauDecayAndEnd) {
  const Schedule schedule = make(
      "{kind: rwkv4neo, lr_init: 1e-3, lr_final: 1e-5, epoch_steps: 10, epoch_count: 5,"
      " my_pile_edecay: 1, warmup_steps: 0}");
  EXPECT_EQ(schedule.at(at_step(9)).lr, 1e-3);
  EXPECT_NEAR(schedule.at(at_step(10)).lr, 1e-3 * std::pow(0.01, 1.0 / 40), 1e-15);
  EXPECT_NEAR(schedule.at(at_step(49)).lr, 1e-5, 1e-18);
  EXPECT_EQ(schedule.at(at_step(49)).lr, schedule.at(at_step(5000)).lr);
  EXPECT_FALSE(schedule.at(at_step(5000)).finished);
}

TEST(Rwkv4neo, EndsWithTheCosine) {
  const Schedule schedule = make(
      "{kind: rwkv4neo, lr_init: 1e-3, lr_final: 1e-5, warmup_steps: 0, my_exit_tokens: 122880}");
  EXPECT_FALSE(schedule.at(at_step(9)).finished);
  EXPECT_TRUE(schedule.at(at_step(10)).finished);
}

TEST(Rwkv4neo, EveryStartFromWeightsWarmsUpAgain) {
  const std::string text = "{kind: rwkv4neo, lr_init: 1e-3, lr_final: 1e-3}";
  const RunConfig config = with_schedule(text);
  const Schedule stage2(config.schedule, config.optimizer, 1024, 12, {100, 500, 2});
  const Schedule stage3(config.schedule, config.optimizer, 1024, 12, {100, 500, 3});
  EXPECT_EQ(stage3.at({0, 0, 0}).lr, 1e-3);  // a fresh start has none by default
  EXPECT_DOUBLE_EQ(stage3.at({300, 0, 0}).lr, 2e-4);
  EXPECT_DOUBLE_EQ(stage3.at({315, 0, 15}).lr, 6e-4);
  EXPECT_EQ(stage3.at({330, 0, 30}).lr, 1e-3);
  EXPECT_DOUBLE_EQ(stage2.at({305, 0, 5}).lr, 6e-4);
  EXPECT_EQ(stage2.at({310, 0, 10}).lr, 1e-3);
}

TEST(Rwkv4neo, NoRoomForTheDecayIsRefused) {
  EXPECT_THROW(
      make("{kind: rwkv4neo, lr_init: 1e-3, lr_final: 1e-5, epoch_steps: 10, epoch_count: 2,"
           " my_pile_edecay: 2, warmup_steps: 0}"),
      UserError);
  EXPECT_THROW(make("{kind: rwkv4neo, lr_init: 1e-3, lr_final: 1e-5, warmup_steps: 100,"
                    " my_exit_tokens: 5000}"),
               UserError);
}

TEST(ByTokens, FirstUpdateIgnoresTheWarmup) {
  const Schedule schedule = make(
      "{kind: rwkv4_tokens, lr_init: 1e-3, lr_final: 1e-5, warmup_tokens: 100, final_tokens: "
      "1100}");
  EXPECT_EQ(schedule.at(at_tokens(0)).lr, 1e-3);
  EXPECT_DOUBLE_EQ(schedule.at(at_tokens(50)).lr, 1e-3 * (0.01 + 0.99 * 0.5));
  EXPECT_EQ(schedule.at(at_tokens(100)).lr, 1e-3);
  EXPECT_NEAR(schedule.at(at_tokens(600)).lr, 1e-4, 1e-18);
  EXPECT_DOUBLE_EQ(schedule.at(at_tokens(1100)).lr, 1e-5);
  EXPECT_DOUBLE_EQ(schedule.at(at_tokens(999999)).lr, 1e-5);
}

TEST(ByTokens, CosineStaysAtItsEnd) {
  const Schedule schedule =
      make("{kind: rwkv2_tokens, lr_init: 1e-3, lr_final: 1e-5, final_tokens: 1000}");
  EXPECT_NEAR(schedule.at(at_tokens(1000)).lr, 1e-5, 1e-18);
  EXPECT_EQ(schedule.at(at_tokens(1500)).lr, schedule.at(at_tokens(1000)).lr);
}

TEST(AllKinds, StayFiniteAtAnyPosition) {
  const std::vector<std::string> kinds = {
      "{segments: [{until: 1, lr: {cosine: [1, 0]}}, {until: 1e15, lr: {exp: [1e-300, 1]}}]}",
      "{kind: rwkv4neo, lr_init: 0, lr_final: 1e-3}",
      "{kind: rwkv4neo, lr_init: 1e-3, lr_final: 0, my_exit_tokens: -1e15}",
      "{kind: rwkv7, lr_init: 1e-3, my_exit_tokens: 1}",
      "{kind: rwkv4_tokens, lr_init: 1e-3, lr_final: 1e-5, final_tokens: 1}",
      "{kind: rwkv2_tokens, lr_init: 1e-3, final_tokens: 1, warmup_tokens: 1}"};
  constexpr int64_t kFar = std::numeric_limits<int64_t>::max();
  for (const std::string& kind : kinds) {
    const Schedule schedule = make(kind);
    for (const int64_t at : {int64_t{0}, int64_t{1}, int64_t{1000}, kMaxCount, kFar}) {
      for (const int64_t since : {int64_t{0}, at}) {
        const SchedulePoint point = schedule.at({at, at, since});
        EXPECT_TRUE(std::isfinite(point.lr) && point.lr >= 0.0 && point.lr <= 1.0) << kind << at;
        EXPECT_TRUE(std::isfinite(point.weight_decay)) << kind << at;
      }
    }
  }
}

TEST(MiniEpochsOf, StagesCountSamples) {
  TrainConfig train;
  train.micro_bsz = 16;
  train.epoch_steps = 77;
  EXPECT_EQ(mini_epochs(train, 324331313).steps, 77);
  EXPECT_EQ(mini_epochs(train, 324331313).count, 500);
  train.stage = 3;
  EXPECT_EQ(mini_epochs(train, 324331313).steps, 2520);
  EXPECT_EQ(mini_epochs(train, 324331313).count, 8043);
  train.stage = 4;
  EXPECT_EQ(mini_epochs(train, 0).count, 500);
}

TEST(LrMultipliers, FollowTheGroupsOfRwkv4neo) {
  OptimizerConfig optimizer;
  EXPECT_EQ(lr_multipliers(optimizer, -1), (std::vector<double>{1, 2, 3}));
  EXPECT_EQ(lr_multipliers(optimizer, 2), (std::vector<double>{1, 5, 5}));
  optimizer.weight_decay = 0.1;
  EXPECT_EQ(lr_multipliers(optimizer, 3), (std::vector<double>{1, 2, 3, 1}));
  optimizer.layerwise_lr = false;
  EXPECT_EQ(lr_multipliers(optimizer, 2), (std::vector<double>{1, 1}));
}

}  // namespace
}  // namespace rwkv::trainer
