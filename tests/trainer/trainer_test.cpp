#include "trainer/trainer.h"

#include <gtest/gtest.h>
#include <torch/torch.h>
#include <unistd.h>

#include <cmath>
#include <csignal>
#include <fstream>
#include <string>

#include "data/base/atomic_file.h"
#include "data/base/error.h"
#include "model/weights.h"
#include "trainer/checkpoint.h"
#include "trainer/evaluate.h"
#include "trainer/loss.h"
#include "trainer/model_source.h"
#include "trainer/report/run_data.h"
#include "trainer/signal.h"

namespace rwkv::trainer {
namespace {

namespace fs = std::filesystem;

std::string read(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

class TrainerRuns : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() / ("rwkv_trainer_" + std::to_string(::getpid()));
    fs::remove_all(folder_);
    fs::create_directories(folder_);
    std::string text;
    for (int i = 0; i < 300; ++i) text += fmt::format("Entry {}. The cat sat on the mat.\n", i);
    write_file_atomically(folder_ / "text.txt", text);
  }
  void TearDown() override { fs::remove_all(folder_); }

  RunConfig config(const std::string& out, const std::vector<std::string>& settings = {}) const {
    const std::string yaml = fmt::format(R"(
model: {{n_layer: 2, n_embd: 16}}
data: {{kind: bytes, path: {0}/text.txt}}
train: {{out_dir: {0}/{1}, ctx_len: 16, micro_bsz: 4, max_steps: 8, threads: 1}}
schedule: {{unit: steps, segments: [{{until: 8, lr: {{exp: [1.0e-2, 1.0e-3]}}}}]}}
checkpoint: {{keep_last: 2, export_pth: false}}
)",
                                         folder_.string(), out);
    return parse_run_config(yaml, "test.yaml", settings);
  }
  fs::path checkpoint(const std::string& out, int step) const {
    return folder_ / out / fmt::format("step-{:08}", step);
  }
  void expect_equal_checkpoints(const fs::path& a, const fs::path& b) const {
    for (const char* file : {"model.safetensors", "optim-00000-of-00001.safetensors"}) {
      EXPECT_TRUE(read(a / file) == read(b / file)) << file;
    }
  }

  fs::path folder_;
};

TEST_F(TrainerRuns, ResumeIsBitwiseIdentical) {
  ASSERT_EQ(Trainer(config("whole"), {}).run(), kFinished);
  for (const char* steps :
       {"train.max_steps=1", "train.max_steps=3", "train.max_steps=7", "train.max_steps=8"}) {
    ASSERT_EQ(Trainer(config("parts", {steps}), {}).run(), kFinished);
  }
  expect_equal_checkpoints(checkpoint("whole", 8), checkpoint("parts", 8));
}

TEST_F(TrainerRuns, ResumeIsBitwiseIdenticalIn16BitsAndWithDropout) {
  for (const char* precision : {"bf16", "fp16"}) {
    const std::string name = precision;
    const std::vector<std::string> settings = {"train.precision=" + name, "train.dropout=0.1",
                                               "train.grad_accum=2"};
    ASSERT_EQ(Trainer(config("whole_" + name, settings), {}).run(), kFinished);
    for (const char* steps : {"train.max_steps=3", "train.max_steps=8"}) {
      auto with_steps = settings;
      with_steps.emplace_back(steps);
      ASSERT_EQ(Trainer(config("parts_" + name, with_steps), {}).run(), kFinished);
    }
    expect_equal_checkpoints(checkpoint("whole_" + name, 8), checkpoint("parts_" + name, 8));
  }
}

TEST_F(TrainerRuns, SixteenBitsLearnNearlyAsFloat32AndKeepFloat32Masters) {
  Trainer wide(config("fp32"), {});
  ASSERT_EQ(wide.run(), kFinished);
  for (const std::string precision : {"bf16", "fp16"}) {
    std::vector<std::string> settings = {"train.precision=" + precision};
    if (precision == "fp16") settings.emplace_back("train.loss_scale=64");
    Trainer narrow(config(precision, settings), {});
    ASSERT_EQ(narrow.run(), kFinished);
    EXPECT_NEAR(narrow.progress().smoothed_loss, wide.progress().smoothed_loss, 0.02) << precision;
    const auto stored = model::read_tensors(checkpoint(precision, 8) / "model.safetensors");
    const at::Tensor& weight = stored.at("blocks.0.att.key.weight");
    EXPECT_EQ(weight.scalar_type(), at::kFloat);
    EXPECT_FALSE(at::equal(weight, weight.to(at::kBFloat16).to(at::kFloat)));
  }
}

TEST_F(TrainerRuns, GradCheckpointingChangesNoBit) {
  ASSERT_EQ(Trainer(config("plain"), {}).run(), kFinished);
  ASSERT_EQ(Trainer(config("grad_cp", {"train.grad_cp=true"}), {}).run(), kFinished);
  expect_equal_checkpoints(checkpoint("plain", 8), checkpoint("grad_cp", 8));
}

TEST_F(TrainerRuns, AnOverflowOfFp16LowersTheLossScaleAndTheRunGoesOn) {
  Trainer run(config("overflow", {"train.precision=fp16", "train.loss_scale=16777216"}), {});
  ASSERT_EQ(run.run(), kFinished);
  const LossScaler scaler = read_checkpoint_state(checkpoint("overflow", 8)).loss_scaler;
  EXPECT_TRUE(scaler.enabled);
  EXPECT_LT(scaler.scale, 16777216);
}

TEST_F(TrainerRuns, MixesQuestionsWithGeneralText) {
  std::string general;
  for (int i = 0; i < 300; ++i) general += fmt::format("{} bottles on the wall. ", i);
  write_file_atomically(folder_ / "general.txt", general);
  const std::string path = "data.general_path=" + (folder_ / "general.txt").string();
  for (const char* mask : {"data.qa_mask=1", "data.qa_mask=2"}) {
    Trainer run(config(mask, {mask, path, "data.sampler=cubic"}), {});
    ASSERT_EQ(run.run(), kFinished);
    EXPECT_LT(run.progress().smoothed_loss, 5.6);
  }
  EXPECT_THROW(config("no", {"data.qa_mask=1", "data.sampler=cubic"}), UserError);
  EXPECT_THROW(Trainer(config("no", {"data.qa_mask=1", "data.sampler=cubic",
                                     "data.general_path=/nowhere/at/all"}),
                       {}),
               UserError);
}

TEST_F(TrainerRuns, ALossMaskDecidesWhatIsLearnedAndValidated) {
  // Every second token is random noise that nothing predicts; the others repeat.
  std::string text;
  std::string even;
  uint32_t noise = 1;
  for (int i = 0; i < 3000; ++i) {
    noise = noise * 1664525U + 1013904223U;
    text += i % 2 == 0 ? 'x' : static_cast<char>('a' + (noise >> 16U) % 20);
    even += static_cast<char>(i % 2 == 0);
  }
  write_file_atomically(folder_ / "noise.txt", text);
  write_file_atomically(folder_ / "even.mask", even);
  const std::vector<std::string> plain = {"data.path=" + (folder_ / "noise.txt").string(),
                                          "validation.tail_tokens=500", "validation.windows=8",
                                          "train.max_steps=80"};
  std::vector<std::string> masked = plain;
  masked.push_back("data.loss_mask=" + (folder_ / "even.mask").string());
  const auto last_validation = [&](const std::string& out, const std::vector<std::string>& set) {
    EXPECT_EQ(Trainer(config(out, set), {}).run(), kFinished);
    const std::string log = read(folder_ / out / "metrics.jsonl");
    return std::stod(log.substr(log.rfind("\"val_loss\":") + 11));
  };
  const double all = last_validation("all", plain);
  const double half = last_validation("half", masked);
  EXPECT_GT(all, std::log(20.0) / 2);  // the noise alone costs that much
  EXPECT_LT(half, all / 2);
  // The mask belongs to the data: another one is another data set, the same file elsewhere is not.
  masked[3] = "train.max_steps=81";
  fs::rename(folder_ / "even.mask", folder_ / "moved.mask");
  masked[4] = "data.loss_mask=" + (folder_ / "moved.mask").string();
  EXPECT_NO_THROW(Trainer(config("half", masked), {}));
  even[0] = 0;
  write_file_atomically(folder_ / "moved.mask", even);
  EXPECT_THROW(Trainer(config("half", masked), {}), UserError);
}

TEST_F(TrainerRuns, TheLossOfAMaskIsThatOfTheLearnedTokensHoweverTheStepIsSplit) {
  const auto size = static_cast<size_t>(fs::file_size(folder_ / "text.txt"));
  std::string mask(size, '\0');  // windows hold from none to all of their tokens
  for (size_t i = 0; i < size; ++i) mask[i] = static_cast<char>(i % 48 < 17);
  write_file_atomically(folder_ / "mask", mask);
  const std::string path = "data.loss_mask=" + (folder_ / "mask").string();
  const auto loss = [&](const std::string& out, std::vector<std::string> settings) {
    settings.insert(settings.end(), {path, "train.max_steps=1"});
    Trainer run(config(out, settings), {});
    EXPECT_EQ(run.run(), kFinished);
    return run.progress().smoothed_loss;
  };
  const double whole = loss("whole", {});
  EXPECT_NEAR(loss("split", {"train.micro_bsz=1", "train.grad_accum=4"}), whole, 1e-5);
  EXPECT_NEAR(loss("halves", {"train.micro_bsz=2", "train.grad_accum=2"}), whole, 1e-5);
  EXPECT_GT(whole, 4);
}

TEST_F(TrainerRuns, AValidationMaskThatNoWindowMeetsIsRefusedBeforeTraining) {
  const std::string text = read(folder_ / "text.txt");
  write_file_atomically(folder_ / "valid.txt", text.substr(0, 400));
  std::string mask(400, '\0');
  mask[0] = 1;  // no target of any window
  write_file_atomically(folder_ / "valid.mask", mask);
  EXPECT_THROW(
      Trainer(config("none", {"validation.path=" + (folder_ / "valid.txt").string(),
                              "validation.loss_mask=" + (folder_ / "valid.mask").string()}),
              {}),
      UserError);
}

TEST_F(TrainerRuns, ACheckpointKnowsHowHeadQkWasTrained) {
  const std::vector<std::string> settings = {"model.head_qk=8", "model.head_qk_reduce=max",
                                             "checkpoint.export_pth=true"};
  ASSERT_EQ(Trainer(config("max", settings), {}).run(), kFinished);
  EXPECT_EQ(open_model(folder_ / "max").model->config().head_qk_reduce, model::HeadQkReduce::kMax);
  EXPECT_EQ(open_model(folder_ / "max" / "rwkv-8.pth").model->config().head_qk_reduce,
            model::HeadQkReduce::kSum);
  EXPECT_THROW(config("no", {"model.head_qk_reduce=max"}), UserError);
}

TEST_F(TrainerRuns, FineTuningGoesOnWithTheModelAndTheCharactersThatWereTrained) {
  const std::vector<std::string> characters = {"data.kind=characters", "model.head_qk=8",
                                               "model.head_qk_reduce=max"};
  ASSERT_EQ(Trainer(config("source", characters), {}).run(), kFinished);
  const std::string from = "train.init_from=" + (folder_ / "source").string();
  RunConfig tuned = config("tuned", {"data.kind=characters", from});
  tuned.named_model_keys.clear();  // the sizes of the test's YAML
  {
    Trainer run(tuned, {});
    EXPECT_EQ(run.model().config().head_qk_reduce, model::HeadQkReduce::kMax);
    EXPECT_EQ(run.model().config().head_qk, 8);
    ASSERT_EQ(run.run(), kFinished);
  }
  // The same command resumes although the weights it started from are gone.
  fs::rename(folder_ / "source", folder_ / "away");
  tuned.train.max_steps = 10;
  EXPECT_EQ(Trainer(tuned, {}).run(), kFinished);
  fs::rename(folder_ / "away", folder_ / "source");

  std::string shifted = read(folder_ / "text.txt");
  for (char& c : shifted) {
    if (c == 'a') c = '#';
  }
  write_file_atomically(folder_ / "shifted.txt", shifted);
  tuned.train.out_dir = (folder_ / "other_ids").string();
  tuned.data.path = (folder_ / "shifted.txt").string();
  try {
    Trainer(tuned, {});
    FAIL() << "no error";
  } catch (const UserError& error) {
    EXPECT_NE(std::string(error.what()).find("data.vocab_file"), std::string::npos) << error.what();
  }
}

TEST_F(TrainerRuns, StageOneMakesALargeStartOfASmallModelAndTrainsNothing) {
  ASSERT_EQ(Trainer(config("small"), {}).run(), kFinished);
  const std::vector<std::string> settings = {
      "train.stage=1",           "data.sampler=cubic",
      "model.n_layer=3",         "model.n_embd=24",
      "train.init_partial=true", "train.init_from=" + (folder_ / "small").string()};
  ASSERT_EQ(Trainer(config("init", settings), {}).run(), kFinished);
  EXPECT_FALSE(fs::exists(folder_ / "init" / "latest"));
  const auto small = model::read_tensors(checkpoint("small", 8) / "model.safetensors");
  const auto large = model::read_tensors(folder_ / "init" / "rwkv-init.pth");
  EXPECT_EQ(large.at("emb.weight").sizes(), at::IntArrayRef({256, 24}));
  // Element i of 24 lies at i / 24 * 16 of the 16; from place 15 on the last one repeats.
  const at::Tensor from = small.at("blocks.1.att.time_decay");
  const at::Tensor to = large.at("blocks.1.att.time_decay");
  EXPECT_NEAR(to[4].item<double>(), from[2].item<double>() / 3 + from[3].item<double>() * 2 / 3,
              1e-5);
  EXPECT_EQ(to[23].item<float>(), from[15].item<float>());

  EXPECT_THROW(Trainer(config("small", {"train.stage=1", "data.sampler=cubic"}), {}).run(),
               UserError);
  EXPECT_THROW(Trainer(config("less", {"train.stage=1", "data.sampler=cubic", "model.n_layer=1",
                                       "train.init_partial=true", settings.back()}),
                       {}),
               UserError);
}

TEST_F(TrainerRuns, WhatFailsBesideTheTrainingCostsNoStep) {
  const std::vector<std::string> settings = {"checkpoint.pth_every=3"};
  fs::create_directories(folder_ / "extras" / "rwkv-3.pth" / "in_the_way");
  ASSERT_EQ(Trainer(config("extras", settings), {}).run(), kFinished);
  EXPECT_TRUE(fs::exists(checkpoint("extras", 8)));

  TrainOptions options;
  options.before_step = [this](Trainer& trainer) {
    if (trainer.progress().step == 1) std::ofstream(folder_ / "text.txt", std::ios::app) << "more";
  };
  Trainer changed(config("changed"), options);
  EXPECT_THROW(changed.run(), UserError);
  EXPECT_TRUE(fs::exists(checkpoint("changed", 1)));
  const std::string sessions = read(folder_ / "changed" / "sessions.jsonl");
  EXPECT_NE(sessions.find("\"step\":1"), std::string::npos) << sessions;
}

TEST_F(TrainerRuns, APromptThatCannotBeReadIsRefusedAtTheStart) {
  EXPECT_THROW(Trainer(config("empty", {"sample.every=5", "sample.prompt=\"\""}), {}), UserError);
  EXPECT_THROW(
      Trainer(config("unknown", {"sample.every=5", "sample.prompt=~", "data.kind=characters"}), {}),
      UserError);
}

TEST_F(TrainerRuns, AVocabularySizeThatIsNotTheCharactersIsRefused) {
  EXPECT_THROW(Trainer(config("padded", {"data.kind=characters", "model.vocab_size=200"}), {}),
               UserError);
}

TEST_F(TrainerRuns, AnotherGeneralTextIsAnotherDataSet) {
  write_file_atomically(folder_ / "general.txt", std::string(2000, 'g'));
  const std::vector<std::string> settings = {
      "data.qa_mask=2", "data.sampler=cubic",
      "data.general_path=" + (folder_ / "general.txt").string()};
  ASSERT_EQ(Trainer(config("mixed", settings), {}).run(), kFinished);
  write_file_atomically(folder_ / "general.txt", std::string(2000, 'h'));
  EXPECT_THROW(Trainer(config("mixed", settings), {}), UserError);
}

TEST_F(TrainerRuns, ADeviceThatIsNotThereIsRefused) {
  if (torch::cuda::is_available()) GTEST_SKIP() << "there is a CUDA device";
  EXPECT_THROW(Trainer(config("gpu", {"train.device=cuda"}), {}), UserError);
}

TEST_F(TrainerRuns, AccumulationSeesTheSameSamplesAndNearlyTheSameGradient) {
  Trainer one(config("one"), {});
  Trainer four(config("four", {"train.micro_bsz=1", "train.grad_accum=4"}), {});
  one.run();
  four.run();
  EXPECT_EQ(one.progress().samples, four.progress().samples);
  const auto p = one.model().named_parameters();
  const auto q = four.model().named_parameters();
  EXPECT_LT((p["head.weight"] - q["head.weight"]).abs().max().item<float>(), 1e-4F);
}

TEST_F(TrainerRuns, ABatchSizeOfTheScheduleTakesEffect) {
  Trainer run(
      config("grows", {"schedule.segments=[{until: 4, lr: {constant: 1.0e-3}}, {until: 8, lr: "
                       "{constant: 1.0e-3}, real_bsz: 12}]"}),
      {});
  run.run();
  EXPECT_EQ(run.progress().samples, 4 * 4 + 4 * 12);
  EXPECT_EQ(run.progress().tokens, run.progress().samples * 16);
}

TEST_F(TrainerRuns, KeepsTheLastCheckpointsAndNoLeftovers) {
  fs::create_directories(folder_ / "kept" / "step-00000002.tmp");
  Trainer(config("kept", {"checkpoint.every=2"}), {}).run();
  EXPECT_FALSE(fs::exists(checkpoint("kept", 2)));
  EXPECT_FALSE(fs::exists(checkpoint("kept", 4)));
  EXPECT_TRUE(fs::exists(checkpoint("kept", 6)));
  EXPECT_TRUE(fs::exists(checkpoint("kept", 8)));
  EXPECT_FALSE(fs::exists(folder_ / "kept" / "step-00000002.tmp"));
  EXPECT_EQ(read(folder_ / "kept" / "latest"), "step-00000008\n");
}

TEST_F(TrainerRuns, EveryDamageIsFoundAndAnOlderCheckpointTaken) {
  Trainer(config("hurt", {"checkpoint.every=4"}), {}).run();
  const fs::path newest = checkpoint("hurt", 8);
  const CheckpointStore store(folder_ / "hurt");
  ASSERT_EQ(store.newest_valid(true), newest);
  for (const auto& entry : fs::directory_iterator(newest)) {
    const std::string content = read(entry.path());
    const std::vector<std::string> damages = {
        content.substr(0, content.size() - 1), content + "x", "",
        std::string(1, static_cast<char>(content[0] ^ 1)) + content.substr(1)};
    for (const std::string& damage : damages) {
      std::ofstream(entry.path(), std::ios::binary) << damage;
      const bool harmless =
          entry.path().filename() == "manifest.json" && damage.size() == content.size() - 1;
      if (!harmless) {  // its last byte is a line break
        EXPECT_EQ(store.newest_valid(true), checkpoint("hurt", 4)) << entry.path();
      }
      std::ofstream(entry.path(), std::ios::binary) << content;
    }
    fs::rename(entry.path(), folder_ / "aside");
    EXPECT_EQ(store.newest_valid(true), checkpoint("hurt", 4)) << entry.path();
    fs::rename(folder_ / "aside", entry.path());
  }
  EXPECT_EQ(store.newest_valid(true), newest);
  fs::remove(newest / "manifest.json");
  fs::remove(checkpoint("hurt", 4) / "state.json");
  EXPECT_THROW((void)store.newest_valid(true), UserError);
  EXPECT_FALSE(store.newest_valid(false));
}

TEST_F(TrainerRuns, SecondTrainerInAFolderIsRefused) {
  const Trainer first(config("shared"), {});
  EXPECT_THROW(Trainer(config("shared"), {}), UserError);
}

TEST_F(TrainerRuns, NotFiniteStopsWithStepAndParameterAndUpdatesNothing) {
  Trainer run(config("wild"), {});
  {
    const torch::NoGradGuard no_grad;
    run.model().named_parameters()["ln_out.weight"][3] = NAN;
  }
  const at::Tensor before = run.model().named_parameters()["emb.weight"].clone();
  try {
    run.run();
    FAIL() << "no error";
  } catch (const NotFiniteError& error) {
    const std::string text = error.what();
    EXPECT_NE(text.find("step 1"), std::string::npos) << text;
    EXPECT_NE(text.find("gradient of "), std::string::npos) << text;
  }
  EXPECT_TRUE(at::equal(before, run.model().named_parameters()["emb.weight"]));
  EXPECT_FALSE(fs::exists(checkpoint("wild", 1)));
}

TEST_F(TrainerRuns, SkipsSoManyNotFiniteUpdatesInARow) {
  Trainer run(config("skips", {"train.skip_nonfinite=3"}), {});
  const torch::NoGradGuard no_grad;
  run.model().named_parameters()["head.weight"][0][0] = INFINITY;
  const torch::AutoGradMode grad(true);
  EXPECT_THROW(run.run(), NotFiniteError);
  EXPECT_EQ(run.progress().step, 3);
}

TEST(Loss, AnAllZeroMaskGivesZeroAndNoNaN) {
  at::Tensor logits = at::randn({2, 3, 5}).set_requires_grad(true);
  const at::Tensor targets = at::ones({2, 3}, at::kLong);
  const at::Tensor loss = cross_entropy(logits, targets, {.factor = 0}, at::zeros({2, 3}));
  loss.backward();
  EXPECT_EQ(loss.item<float>(), 0);
  EXPECT_EQ(logits.grad().abs().max().item<float>(), 0);
}

TEST(Loss, L2WrapFollowsTheIncomingGradientUnlessCompatible) {
  const at::Tensor values = at::randn({4, 7}, at::kDouble);
  const at::Tensor targets = at::zeros({4}, at::kLong);
  const auto gradient = [&](const L2Wrap& l2wrap, double scale) {
    at::Tensor logits = values.clone().set_requires_grad(true);
    (cross_entropy(logits, targets, l2wrap) * scale).backward();
    return logits.grad();
  };
  const at::Tensor once = gradient({}, 1);
  EXPECT_LT((gradient({}, 8) - 8 * once).abs().max().item<double>(), 1e-14);
  EXPECT_GT((gradient({.ignore_incoming_gradient = true}, 8) - 8 * once).abs().max().item<double>(),
            1e-6);
}

TEST(Loss, ShapesAreCheckedWithBothValues) {
  try {
    cross_entropy(at::zeros({2, 3, 5}), at::zeros({2, 4}, at::kLong), {});
    FAIL() << "no error";
  } catch (const c10::Error& error) {
    const std::string text = error.what_without_backtrace();
    EXPECT_NE(text.find("[2, 3, 5]"), std::string::npos) << text;
    EXPECT_NE(text.find("[2, 4]"), std::string::npos) << text;
  }
}

TEST(Metrics, NoStepTwiceAfterAResumeAndNoHalfLine) {
  const fs::path folder =
      fs::temp_directory_path() / ("rwkv_metrics_" + std::to_string(::getpid()));
  fs::create_directories(folder);
  write_file_atomically(folder / "metrics.jsonl",
                        "{\"step\":1}\n{\"step\":2}\n{\"step\":3}\n{\"ste");
  {
    MetricsLog log(folder, 2);
    StepMetrics metrics;
    metrics.step = 3;
    log.write(metrics);
  }
  const std::string text = read(folder / "metrics.jsonl");
  EXPECT_TRUE(text.starts_with("{\"step\":1}\n{\"step\":2}\n{\"step\":3,\"tokens\":0")) << text;
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 3);
  fs::remove_all(folder);
}

TEST(Metrics, ElapsedSecondsGoOnAndSamplesAreCutAfterAResume) {
  const fs::path folder =
      fs::temp_directory_path() / ("rwkv_elapsed_" + std::to_string(::getpid()));
  fs::create_directories(folder);
  write_file_atomically(folder / "metrics.jsonl",
                        "{\"step\":1,\"elapsed_s\":100.5}\n{\"step\":2,\"elapsed_s\":200}\n");
  write_file_atomically(folder / "samples.jsonl",
                        "{\"step\":1,\"text\":\"a\"}\n{\"step\":2,\"text\":\"b\"}\n");
  {
    MetricsLog log(folder, 1);
    StepMetrics metrics;
    metrics.step = 2;
    log.write(metrics);
    log.write(report::SampleText{2, "p", "c"});
  }
  const report::RunData run = report::read_run(folder, 100);
  EXPECT_GE(run.last.elapsed_s, 100.5);
  EXPECT_LT(run.last.elapsed_s, 190);
  ASSERT_EQ(run.samples.size(), 2U);
  EXPECT_EQ(run.samples[1].text, "c");
  fs::remove_all(folder);
}

TEST(Metrics, TrainingGoesOnWithoutTensorBoard) {
  const fs::path folder = fs::temp_directory_path() / ("rwkv_events_" + std::to_string(::getpid()));
  fs::create_directories(folder);
  MetricsLog log(folder, 0, /*tensorboard=*/true);
  fs::remove_all(folder);  // TensorBoard's file is made at the first line
  StepMetrics metrics;
  metrics.step = 1;
  EXPECT_NO_THROW(log.write(metrics));
  metrics.step = 2;
  EXPECT_NO_THROW(log.write(metrics));
  EXPECT_NO_THROW(log.write(report::SampleText{2, "p", "c"}));
}

TEST(Signals, TheFirstAsksForAStop) {
  const StopSignals signals;
  EXPECT_EQ(StopSignals::requested(), 0);
  std::raise(SIGTERM);
  EXPECT_EQ(StopSignals::requested(), SIGTERM);
  std::raise(SIGTERM);  // the same request once more, as `timeout` sends it
  std::raise(SIGINT);
  EXPECT_EQ(StopSignals::requested(), SIGTERM);
  EXPECT_EXIT(
      {
        ::sleep(2);
        std::raise(SIGINT);
      },
      ::testing::ExitedWithCode(128 + SIGINT), "");
}

TEST(Duration, IsShort) {
  EXPECT_EQ(format_duration(12.4), "12s");
  EXPECT_EQ(format_duration(185), "3m05s");
  EXPECT_EQ(format_duration(3720), "1h02m");
}

}  // namespace
}  // namespace rwkv::trainer
