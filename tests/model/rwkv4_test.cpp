#include "model/rwkv4.h"

#include <gtest/gtest.h>
#include <torch/torch.h>
#include <unistd.h>

#include <filesystem>
#include <string>
#include <vector>

#include "data/base/error.h"
#include "model/factory.h"
#include "model/generate.h"
#include "model/init.h"
#include "model/weights.h"

namespace rwkv::model {
namespace {

namespace fs = std::filesystem;

ModelConfig small_config() {
  ModelConfig config;
  config.n_layer = 3;
  config.n_embd = 32;
  config.vocab_size = 50;
  return config;
}

/// A model whose every parameter matters: the training start has zeros that would hide mistakes.
std::shared_ptr<LanguageModel> random_model(const ModelConfig& config) {
  auto model = build_model(config);
  at::Generator generator = at::detail::createCPUGenerator(7);
  const torch::NoGradGuard no_grad;
  for (auto& parameter : model->parameters()) parameter.normal_(0.1, 0.3, generator);
  return model;
}

at::Tensor some_ids(int64_t B, int64_t T) {
  at::Generator generator = at::detail::createCPUGenerator(11);
  return at::randint(0, 50, {B, T}, generator, at::kLong);
}

class Rwkv4Options : public ::testing::TestWithParam<int> {
 protected:
  static ModelConfig config() {
    ModelConfig config = small_config();
    if (GetParam() == 1) config.pre_ffn = true;
    if (GetParam() == 2) config.head_qk = 16;
    if (GetParam() == 3) {
      config.dim_att = 64;
      config.dim_ffn = 96;
      config.pre_ffn = true;
      config.head_qk = 8;
    }
    return config;
  }
};

TEST_P(Rwkv4Options, PiecesWithStateGiveTheLogitsOfTheWhole) {
  const torch::NoGradGuard no_grad;
  const auto model = random_model(config());
  const at::Tensor ids = some_ids(2, 5);
  const at::Tensor whole = model->forward(ids);
  for (const std::vector<int64_t>& pieces :
       {std::vector<int64_t>{5}, {1, 4}, {2, 1, 2}, {1, 1, 1, 1, 1}}) {
    State state;
    std::vector<at::Tensor> parts;
    int64_t begin = 0;
    for (const int64_t length : pieces) {
      parts.push_back(model->forward(ids.slice(1, begin, begin + length), &state, Positions::kAll));
      begin += length;
    }
    EXPECT_LT((at::cat(parts, 1) - whole).abs().max().item<float>(), 2e-5F)
        << pieces.size() << " pieces";
  }
}

TEST_P(Rwkv4Options, LastPositionEqualsTheLastOfAll) {
  const torch::NoGradGuard no_grad;
  const auto model = random_model(config());
  const at::Tensor ids = some_ids(2, 6);
  const at::Tensor last = model->forward(ids, nullptr, Positions::kLast);
  ASSERT_EQ(last.sizes(), at::IntArrayRef({2, 1, 50}));
  EXPECT_LT((last.select(1, 0) - model->forward(ids).select(1, 5)).abs().max().item<float>(),
            2e-5F);
}

TEST_P(Rwkv4Options, LaterTokensChangeNothingBefore) {
  const torch::NoGradGuard no_grad;
  const auto model = random_model(config());
  const at::Tensor ids = some_ids(1, 8);
  at::Tensor changed = ids.clone();
  changed[0][6] = (changed[0][6] + 1) % 50;
  const at::Tensor a = model->forward(ids);
  const at::Tensor b = model->forward(changed);
  EXPECT_LT((a.slice(1, 0, 6) - b.slice(1, 0, 6)).abs().max().item<float>(), 1e-6F);
  EXPECT_GT((a.slice(1, 6) - b.slice(1, 6)).abs().max().item<float>(), 1e-3F);
}

TEST_P(Rwkv4Options, SizesAreReadOffTheShapes) {
  const auto model = build_model(config());
  Shapes shapes;
  for (const auto& entry : model->named_parameters())
    shapes[entry.key()] = entry.value().sizes().vec();
  EXPECT_EQ(config_from_shapes(shapes, "test"), config());
}

INSTANTIATE_TEST_SUITE_P(PlainPreFfnHeadQkAll, Rwkv4Options, ::testing::Values(0, 1, 2, 3));

TEST(State, IsABranchAndIsNeverWrittenInto) {
  const torch::NoGradGuard no_grad;
  const auto model = random_model(small_config());
  State state;
  model->forward(some_ids(1, 4), &state, Positions::kLast);
  const State branch = state;
  const State deep = state.clone();
  const at::Tensor next = some_ids(1, 1);
  const at::Tensor first = model->forward(next, &state, Positions::kLast);
  State again = branch;
  EXPECT_TRUE(at::equal(first, model->forward(next, &again, Positions::kLast)));
  for (const auto& [name, row] : deep.rows) EXPECT_TRUE(at::equal(row, branch.get(name))) << name;
}

TEST(Rwkv4, RefusesWhatIsNoTokenIdAndNamesIt) {
  const auto model = random_model(small_config());
  EXPECT_THROW(model->forward(at::full({1, 2}, 50, at::kLong)), c10::Error);
  EXPECT_THROW(model->forward(at::full({1, 2}, -1, at::kLong)), c10::Error);
  EXPECT_THROW(model->forward(at::zeros({1, 2}, at::kFloat)), c10::Error);
  EXPECT_THROW(model->forward(at::zeros({1, 0}, at::kLong)), c10::Error);
  EXPECT_THROW(model->forward(at::zeros({3}, at::kLong)), c10::Error);
  State other_batch;
  model->forward(some_ids(3, 2), &other_batch, Positions::kLast);
  EXPECT_THROW(model->forward(some_ids(2, 2), &other_batch, Positions::kLast), c10::Error);
}

TEST(Init, BlocksStartAsIdentityAndSeedsRepeat) {
  const torch::NoGradGuard no_grad;
  const auto model = build_model(small_config());
  init_weights(*model, 1, 1e-4);
  const auto same = build_model(small_config());
  init_weights(*same, 1, 1e-4);
  const auto other = build_model(small_config());
  init_weights(*other, 2, 1e-4);
  const auto p = model->named_parameters();
  for (const auto& entry : p)
    EXPECT_TRUE(at::equal(entry.value(), same->named_parameters()[entry.key()]));
  EXPECT_FALSE(at::equal(p["emb.weight"], other->named_parameters()["emb.weight"]));

  const at::Tensor ids = some_ids(1, 6);
  const auto norm = [&](const at::Tensor& x, const std::string& name) {
    return at::layer_norm(x, {32}, p[name + ".weight"], p[name + ".bias"], 1e-5);
  };
  const at::Tensor x = norm(p["emb.weight"].index_select(0, ids.view({-1})), "blocks.0.ln0");
  const at::Tensor expected = norm(x, "ln_out").matmul(p["head.weight"].t());
  EXPECT_LT((model->forward(ids).squeeze(0) - expected).abs().max().item<float>(), 1e-5F);
}

TEST(Weights, PthAndSafetensorsGiveTheWeightsBack) {
  const fs::path folder =
      fs::temp_directory_path() / ("rwkv_weights_" + std::to_string(::getpid()));
  fs::create_directories(folder);
  const auto model = random_model(small_config());
  save_pth(*model, folder / "a.pth");
  save_safetensors(ordered_parameters(*model), folder / "a.safetensors");
  for (const char* name : {"a.pth", "a.safetensors"}) {
    const Tensors tensors = read_tensors(folder / name);
    const auto loaded = build_model(config_from_shapes(shapes_of(tensors), name));
    load_weights(*loaded, tensors, name);
    for (const auto& entry : model->named_parameters()) {
      EXPECT_TRUE(at::equal(entry.value(), loaded->named_parameters()[entry.key()])) << entry.key();
    }
  }
  fs::remove_all(folder);
}

TEST(Weights, AllThatDoesNotFitIsListedAndNothingIsCopied) {
  const auto model = random_model(small_config());
  Tensors tensors;
  for (const auto& entry : model->named_parameters())
    tensors[entry.key()] = at::zeros_like(entry.value());
  tensors.erase("ln_out.bias");
  tensors["head.weight"] = at::zeros({51, 32});
  tensors["surplus"] = at::zeros({1});
  tensors["copy_mask"] = at::zeros({4, 4});
  const at::Tensor before = model->named_parameters()["emb.weight"].clone();
  try {
    load_weights(*model, tensors, "file.pth");
    FAIL() << "no error";
  } catch (const UserError& error) {
    const std::string text = error.what();
    EXPECT_NE(text.find("ln_out.bias is missing"), std::string::npos) << text;
    EXPECT_NE(text.find("head.weight is [51,32], expected [50,32]"), std::string::npos) << text;
    EXPECT_NE(text.find("surplus is unknown"), std::string::npos) << text;
    EXPECT_EQ(text.find("copy_mask"), std::string::npos) << text;
  }
  EXPECT_TRUE(at::equal(before, model->named_parameters()["emb.weight"]));
}

TEST(Sampling, TopPActsBeforeTemperature) {
  const at::Tensor logits = at::tensor({0.5, 0.3, 0.15, 0.05}).log();
  const at::Tensor p = next_token_probabilities(logits, {.temperature = 0.5, .top_p = 0.75});
  EXPECT_NEAR(p[0].item<double>(), 0.25 / 0.34, 1e-6);
  EXPECT_NEAR(p[1].item<double>(), 0.09 / 0.34, 1e-6);
  EXPECT_EQ(p[2].item<double>(), 0);
  const at::Tensor all = next_token_probabilities(logits, {.temperature = 1, .top_p = 1});
  EXPECT_NEAR(all[3].item<double>(), 0.05, 1e-6);
}

TEST(Sampling, TemperatureZeroTakesTheFirstLargest) {
  const at::Tensor p =
      next_token_probabilities(at::tensor({1.0F, 3.0F, 3.0F}), {.temperature = 0, .top_p = 0.9});
  EXPECT_EQ(draw(p, 0.999), 1);
  const at::Tensor cold =
      next_token_probabilities(at::tensor({-900.0F, -1000.0F}), {.temperature = 1e-3, .top_p = 1});
  EXPECT_NEAR(cold[0].item<double>(), 1, 1e-9);
}

TEST(Sampling, RefusesNotFiniteLogitsAndSettings) {
  EXPECT_THROW(next_token_probabilities(at::tensor({1.0F, NAN}), {}), UserError);
  EXPECT_THROW(next_token_probabilities(at::full({3}, -INFINITY), {}), UserError);
  EXPECT_THROW(check({.temperature = NAN}, ""), UserError);
  EXPECT_THROW(check({.top_p = 1.5}, ""), UserError);
}

TEST(Sampling, DrawsFollowTheProbabilities) {
  const at::Tensor p = at::tensor({0.2, 0.0, 0.5, 0.3});
  DrawStream stream(3);
  std::vector<int> counts(4);
  for (int i = 0; i < 20000; ++i) ++counts[static_cast<size_t>(draw(p, stream.next()))];
  EXPECT_NEAR(counts[0], 4000, 250);
  EXPECT_EQ(counts[1], 0);
  EXPECT_NEAR(counts[2], 10000, 350);
}

TEST(Generate, RepeatsBySeedAndPrefillIsFreeOfItsChunks) {
  const auto model = random_model(small_config());
  const std::vector<int64_t> prompt{3, 1, 4, 1, 5, 9, 2, 6};
  const auto write = [&](uint64_t seed) {
    State state;
    return generate(*model, prompt, {.sampling = {}, .tokens = 12, .seed = seed}, state,
                    [](int64_t) { return true; });
  };
  EXPECT_EQ(write(1), write(1));
  EXPECT_NE(write(1), write(2));
  State a;
  State b;
  const at::Tensor difference = prefill(*model, prompt, a, 3) - prefill(*model, prompt, b, 256);
  EXPECT_LT(difference.abs().max().item<float>(), 2e-5F);
}

}  // namespace
}  // namespace rwkv::model
