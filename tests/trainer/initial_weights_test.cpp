#include "trainer/initial_weights.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <torch/torch.h>
#include <unistd.h>

#include <filesystem>
#include <string>

#include "data/base/error.h"
#include "model/factory.h"
#include "model/weights.h"

namespace rwkv::trainer {
namespace {

namespace fs = std::filesystem;

TEST(MatchesPattern, StarsAndQuestionMarksCoverTheWholeName) {
  EXPECT_TRUE(matches_pattern("emb.weight", "emb.weight"));
  EXPECT_FALSE(matches_pattern("emb", "emb.weight"));
  EXPECT_TRUE(matches_pattern("*", "emb.weight"));
  EXPECT_TRUE(matches_pattern("*.att.*", "blocks.11.att.key.weight"));
  EXPECT_TRUE(matches_pattern("blocks.?.att.*", "blocks.1.att.key.weight"));
  EXPECT_FALSE(matches_pattern("blocks.?.att.*", "blocks.11.att.key.weight"));
  EXPECT_TRUE(matches_pattern("*key*weight*", "blocks.1.att.key.weight"));
  EXPECT_FALSE(matches_pattern("*key", "blocks.1.att.key.weight"));
  EXPECT_FALSE(matches_pattern("", "a"));
  EXPECT_TRUE(matches_pattern("", ""));
  EXPECT_TRUE(matches_pattern("a*", "a*b"));
  // Many stars cost no more than text times pattern.
  std::string stars;
  for (int i = 0; i < 200; ++i) stars += "a*";
  EXPECT_FALSE(matches_pattern(stars + "b", std::string(5000, 'a')));
}

class InitFrom : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() / ("rwkv_init_from_" + std::to_string(::getpid()));
    fs::create_directories(folder_);
    model::ModelConfig c;
    c.n_layer = 2;
    c.n_embd = 8;
    c.vocab_size = 11;
    c.dim_ffn = 20;
    model_ = model::build_model(c);
    const torch::NoGradGuard no_grad;
    for (auto& parameter : model_->parameters()) parameter.normal_();
    model::save_pth(*model_, folder_ / "a.pth");
  }
  void TearDown() override { fs::remove_all(folder_); }

  RunConfig config(const std::string& model, const std::string& more = "") const {
    return parse_run_config(fmt::format(R"(
model: {{{1}}}
data: {{path: x}}
train: {{max_steps: 1, out_dir: {0}/out, init_from: {0}/a.pth{2}}}
schedule: {{unit: steps, segments: [{{until: 1, lr: {{constant: 1.0e-4}}}}]}}
)",
                                        folder_.string(), model, more),
                            "test.yaml");
  }

  fs::path folder_;
  std::shared_ptr<model::LanguageModel> model_;
};

TEST_F(InitFrom, SizesComeFromTheFile) {
  const RunConfig found = with_sizes_of_initial_weights(config("emb_init: 0.5"));
  EXPECT_EQ(found.model.n_layer, 2);
  EXPECT_EQ(found.model.n_embd, 8);
  EXPECT_EQ(found.model.dim_ffn, 20);
  EXPECT_EQ(found.model.vocab_size, 11);
  EXPECT_EQ(found.model.emb_init, 0.5);
  EXPECT_EQ(with_sizes_of_initial_weights(config("dim_att: 8, n_layer: 2")).model.dim_att, 0);
}

TEST_F(InitFrom, EveryDisagreementHasBothNumbers) {
  try {
    // 6 layers are the default, but here they were asked for.
    with_sizes_of_initial_weights(config("n_layer: 6, vocab_size: 12, n_embd: 8, pre_ffn: true"));
    FAIL() << "no error";
  } catch (const UserError& error) {
    const std::string text = error.what();
    for (const char* part : {"model.n_layer is 6 in the configuration and 2 there",
                             "model.vocab_size is 12 in the configuration and 11 there",
                             "model.pre_ffn is true in the configuration and false there"}) {
      EXPECT_NE(text.find(part), std::string::npos) << text;
    }
    EXPECT_EQ(text.find("n_embd"), std::string::npos) << text;
  }
}

TEST_F(InitFrom, WithInitPartialTheConfigurationWins) {
  const RunConfig found =
      with_sizes_of_initial_weights(config("n_layer: 3", ", init_partial: true"));
  EXPECT_EQ(found.model.n_layer, 3);
  EXPECT_EQ(found.model.n_embd, 8);
}

TEST_F(InitFrom, WeightsAreLoaded) {
  const RunConfig run = with_sizes_of_initial_weights(config(""));
  const auto model = model::build_model(run.model);
  load_initial_weights(run, *model);
  for (const auto& entry : model_->named_parameters()) {
    EXPECT_TRUE(at::equal(entry.value(), model->named_parameters()[entry.key()])) << entry.key();
  }
}

TEST_F(InitFrom, FrozenParametersNeedNoGradient) {
  freeze(*model_, {"emb.weight", "*.att.*"});
  for (const auto& entry : model_->named_parameters()) {
    const bool frozen =
        entry.key() == "emb.weight" || entry.key().find(".att.") != std::string::npos;
    EXPECT_EQ(entry.value().requires_grad(), !frozen) << entry.key();
  }
  EXPECT_THROW(freeze(*model_, {"blocks.7.*"}), UserError);
  EXPECT_THROW(freeze(*model_, {"*"}), UserError);
}

}  // namespace
}  // namespace rwkv::trainer
