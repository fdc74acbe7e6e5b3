#include <fmt/format.h>
#include <gtest/gtest.h>
#include <torch/torch.h>
#include <unistd.h>

#include <filesystem>
#include <map>
#include <string>

#include "data/base/atomic_file.h"
#include "data/base/error.h"
#include "data/token_source.h"
#include "model/load_model.h"
#include "trainer/evaluate.h"
#include "trainer/model_source.h"
#include "trainer/trainer.h"

namespace rwkv::trainer {
namespace {

namespace fs = std::filesystem;

/// A small model that has learned something: 8-bit weights of random matrices would tell little.
class StrategyLoss : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = fs::temp_directory_path() / fmt::format("rwkv_strategy_loss_{}", ::getpid());
    fs::remove_all(folder_);
    fs::create_directories(folder_);
    std::string text;
    for (int i = 0; i < 600; ++i) {
      text += fmt::format("Entry {}. The cat sat on the mat, and {} dogs sat on a log.\n", i,
                          i * 7 % 31);
    }
    write_file_atomically(folder_ / "text.txt", text);
    const std::string yaml = fmt::format(R"(
model: {{n_layer: 3, n_embd: 64}}
data: {{kind: bytes, path: {0}/text.txt}}
train: {{out_dir: {0}/run, ctx_len: 32, micro_bsz: 8, max_steps: 120, threads: 1}}
schedule: {{unit: steps, segments: [{{until: 120, lr: {{exp: [1.0e-2, 1.0e-3]}}}}]}}
checkpoint: {{export_pth: true}}
)",
                                         folder_.string());
    ASSERT_EQ(Trainer(parse_run_config(yaml, "test.yaml", {}), {}).run(), kFinished);
  }
  static void TearDownTestSuite() { fs::remove_all(folder_); }

  static double loss(model::LanguageModel& model) {
    const auto text = data::open_tokens(
        {.path = (folder_ / "text.txt").string(), .kind = data::SourceKind::kBytes});
    return validation_loss(model, *text, {.windows = 64, .ctx_len = 32, .micro_bsz = 8});
  }
  static double loss(const std::string& strategy) {
    return loss(*open_model(folder_ / "run", {}, strategy).model);
  }

  static fs::path folder_;
};
fs::path StrategyLoss::folder_;

TEST_F(StrategyLoss, OfEightBitsIsThatOfFloat32WithinAHundredth) {
  const double module = loss(*model::load_model(folder_ / "run" / "rwkv-120.pth"));
  std::map<std::string, double> losses;
  for (const char* strategy : {"fp32", "bf16", "fp16", "i8", "i8-seed"}) {
    losses[strategy] = loss(strategy);
    fmt::print("{:>8}: loss {:.5f}, perplexity {:.4f}\n", strategy, losses[strategy],
               std::exp(losses[strategy]));
  }
  EXPECT_LT(module, 1.5) << "the model has not learned";
  EXPECT_NEAR(losses["fp32"], module, 1e-5);
  EXPECT_NEAR(losses["fp16"], module, 2e-3);
  EXPECT_NEAR(losses["bf16"], module, 1e-2);
  EXPECT_NEAR(losses["i8"], module, 1e-2);
  EXPECT_NEAR(losses["i8-seed"], module, 1e-2);
  for (const char* narrow : {"bf16", "fp16", "i8", "i8-seed"}) {
    EXPECT_NE(losses[narrow], losses["fp32"]) << narrow;
  }
}

TEST_F(StrategyLoss, OfStreamedLayersIsThatOfResidentOnes) {
  EXPECT_NEAR(loss("cpu fp32 *1+"), loss("cpu fp32"), 1e-5);
}

TEST_F(StrategyLoss, AnUnknownStrategyNamesTheOption) {
  EXPECT_THROW(open_model(folder_ / "run", {}, "cpu fp31"), UserError);
  EXPECT_THROW(open_model(folder_ / "run", {}, "cuda fp16"), UserError);
}

}  // namespace
}  // namespace rwkv::trainer
