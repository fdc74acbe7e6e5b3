#include "model/inference/rwkv4_inference.h"

#include <ATen/Parallel.h>
#include <gtest/gtest.h>
#include <torch/torch.h>
#include <unistd.h>

#include <filesystem>
#include <string>
#include <vector>

#include "data/base/error.h"
#include "model/factory.h"
#include "model/weights.h"

namespace rwkv::model {
namespace {

namespace fs = std::filesystem;

ModelConfig small_config() {
  ModelConfig config;
  config.n_layer = 4;
  config.n_embd = 64;
  config.vocab_size = 50;
  return config;
}

std::shared_ptr<LanguageModel> random_model(const ModelConfig& config) {
  auto model = build_model(config);
  at::Generator generator = at::detail::createCPUGenerator(7);
  const torch::NoGradGuard no_grad;
  for (auto& parameter : model->parameters()) parameter.normal_(0.05, 0.2, generator);
  model->eval();
  return model;
}

at::Tensor some_ids(int64_t B, int64_t T) {
  return at::randint(0, 50, {B, T}, at::detail::createCPUGenerator(11), at::kLong);
}

double difference(const at::Tensor& a, const at::Tensor& b) {
  EXPECT_EQ(a.sizes(), b.sizes());
  return (a - b).abs().max().item<double>();
}

/// Logits [1,T,V] of ids [1,T], fed token by token.
at::Tensor one_by_one(LanguageModel& model, const at::Tensor& ids, State& state) {
  std::vector<at::Tensor> rows;
  for (int64_t t = 0; t < ids.size(1); ++t) {
    rows.push_back(model.forward(ids.slice(1, t, t + 1), &state, Positions::kAll));
  }
  return at::cat(rows, 1);
}

class Inference : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() / ("rwkv_inference_" + std::to_string(::getpid()));
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  /// The weights of `model` in a file, as `strategy` loads them.
  std::shared_ptr<LanguageModel> load(const LanguageModel& model, const InferenceOptions& options) {
    const fs::path file = folder_ / "model.safetensors";
    save_safetensors(ordered_parameters(model), file);
    return load_inference_model(formats::open_tensor_file(file), options);
  }
  std::shared_ptr<LanguageModel> load(const LanguageModel& model, const std::string& strategy) {
    return load(model, InferenceOptions{strategy, model.config().head_qk_reduce, {}});
  }

  fs::path folder_;
  const at::NoGradGuard no_grad_;
};

class InferenceOptionsOfModels : public Inference, public ::testing::WithParamInterface<int> {
 protected:
  static ModelConfig config() {
    ModelConfig config = small_config();
    if (GetParam() == 1) config.pre_ffn = true;
    if (GetParam() == 2) config.head_qk = 16;
    if (GetParam() == 3) {
      config.dim_att = 96;
      config.dim_ffn = 72;
      config.n_embd = 40;
    }
    if (GetParam() == 4) {
      config.head_qk = 8;
      config.head_qk_reduce = HeadQkReduce::kMax;
      config.pre_ffn = true;
      config.dim_att = 32;
    }
    return config;
  }
};
INSTANTIATE_TEST_SUITE_P(All, InferenceOptionsOfModels, ::testing::Range(0, 5));

TEST_P(InferenceOptionsOfModels, ComputesWhatRwkv4Computes) {
  const auto reference = random_model(config());
  const auto model = load(*reference, "cpu fp32");
  EXPECT_EQ(model->config(), reference->config());
  const at::Tensor ids = some_ids(3, 12);
  EXPECT_LT(difference(model->forward(ids), reference->forward(ids)), 2e-4);
  EXPECT_LT(difference(model->forward(ids, nullptr, Positions::kLast),
                       reference->forward(ids, nullptr, Positions::kLast)),
            2e-4);

  const at::Tensor one = ids.slice(0, 0, 1);
  State ours, theirs;
  EXPECT_LT(difference(one_by_one(*model, one, ours), reference->forward(one, theirs)), 2e-4);
  ASSERT_EQ(ours.rows.size(), theirs.rows.size());
  for (const auto& [name, row] : theirs.rows) {
    ASSERT_TRUE(ours.rows.contains(name)) << name;
    if (name.ends_with(".xx")) {
      EXPECT_LT(difference(ours.get(name), row), 2e-4) << name;
    } else if (name.ends_with(".aa")) {
      const std::string stem = name.substr(0, name.size() - 3);
      EXPECT_LT(difference(ours.get(name) / ours.get(stem + ".bb"), row / theirs.get(stem + ".bb")),
                2e-4)
          << name;
    }
  }
}

TEST_P(InferenceOptionsOfModels, PiecesWithStateGiveTheLogitsOfTheWhole) {
  const auto model = load(*random_model(config()), "cpu fp32");
  const at::Tensor ids = some_ids(1, 24);
  const at::Tensor whole = model->forward(ids);
  // Pieces of the parallel mode, steps, and short pieces that run as steps.
  for (const std::vector<int64_t>& pieces :
       {std::vector<int64_t>{10, 14}, {1, 20, 3}, {7, 2, 15}}) {
    State state;
    std::vector<at::Tensor> rows;
    int64_t first = 0;
    for (const int64_t piece : pieces) {
      rows.push_back(model->forward(ids.slice(1, first, first + piece), state));
      first += piece;
    }
    EXPECT_LT(difference(at::cat(rows, 1), whole), 2e-4);
  }
}

TEST_F(Inference, GoesOnFromAStateOfRwkv4AndBack) {
  const auto reference = random_model(small_config());
  const auto model = load(*reference, "cpu fp32");
  const at::Tensor ids = some_ids(1, 20), first = ids.slice(1, 0, 9), second = ids.slice(1, 9, 20);
  const at::Tensor expected = reference->forward(ids).slice(1, 9, 20);
  State theirs, ours;
  reference->forward(first, theirs);
  EXPECT_LT(difference(one_by_one(*model, second, theirs), expected), 2e-4);
  one_by_one(*model, first, ours);
  EXPECT_LT(difference(reference->forward(second, ours), expected), 2e-4);
}

TEST_F(Inference, WritesTheStateInPlaceUnlessItIsShared) {
  const auto model = load(*random_model(small_config()), "cpu fp32");
  const at::Tensor ids = some_ids(1, 6);
  State state;
  one_by_one(*model, ids, state);
  const void* place = state.get("blocks.1.att.aa").const_data_ptr();
  one_by_one(*model, ids, state);
  EXPECT_EQ(state.get("blocks.1.att.aa").const_data_ptr(), place);

  const State branch = state;
  const State frozen = state.clone();
  const at::Tensor one_way = one_by_one(*model, ids, state);
  for (const auto& [name, row] : frozen.rows) EXPECT_TRUE(branch.get(name).equal(row)) << name;
  State again = branch;
  EXPECT_TRUE(one_by_one(*model, ids, again).equal(one_way));
  // A row that is a view of a larger tensor is shared as well.
  State views = frozen.clone();
  const at::Tensor larger = at::stack({views.get("blocks.0.ffn.xx"), views.get("blocks.0.ffn.xx")});
  const at::Tensor before = larger.clone();
  views.set("blocks.0.ffn.xx", larger[0]);
  one_by_one(*model, ids, views);
  EXPECT_TRUE(larger.equal(before));
}

TEST_F(Inference, StepsGiveTheSameBitsOnAnyNumberOfThreads) {
  ModelConfig config = small_config();
  config.n_embd = 256;  // large enough to be shared out
  config.vocab_size = 2000;
  const auto reference = random_model(config);
  for (const char* strategy : {"fp32", "bf16", "i8", "i8-seed"}) {
    const auto model = load(*reference, std::string(strategy));
    const int threads = at::get_num_threads();
    std::vector<at::Tensor> results;
    for (const int count : {1, 2, 3}) {
      at::set_num_threads(count);
      State state;
      results.push_back(one_by_one(*model, some_ids(1, 5), state));
    }
    at::set_num_threads(threads);
    EXPECT_TRUE(results[0].equal(results[1]) && results[0].equal(results[2])) << strategy;
  }
}

TEST_F(Inference, EachPrecisionIsAsNearAsItsBits) {
  const auto reference = random_model(small_config());
  const at::Tensor ids = some_ids(1, 16);
  const at::Tensor expected = reference->forward(ids);
  const double scale = expected.std().item<double>();
  const std::pair<const char*, double> bounds[] = {
      {"bf16", 0.05}, {"fp16", 0.01}, {"i8", 0.1}, {"i8-seed", 0.1}, {"bf16i8", 0.1}};
  for (const auto& [strategy, bound] : bounds) {
    const auto model = load(*reference, std::string(strategy));
    State state;
    const at::Tensor steps = one_by_one(*model, ids, state), whole = model->forward(ids);
    const auto error = [&](const at::Tensor& logits) {
      return (logits - expected).square().mean().sqrt().item<double>() / scale;
    };
    EXPECT_LT(error(steps), bound) << strategy;
    EXPECT_LT(error(whole), bound) << strategy;
    EXPECT_GT(error(steps), 1e-5) << strategy << " is not what runs";
  }
}

TEST_F(Inference, StreamedLayersComputeTheSame) {
  const auto reference = random_model(small_config());
  const at::Tensor ids = some_ids(1, 12);
  for (const std::string type : {"fp32", "bf16", "fp16"}) {
    const auto resident = load(*reference, "cpu " + type);
    const auto streamed = load(*reference, "cpu " + type + " *1+");
    State a, b;
    EXPECT_TRUE(one_by_one(*resident, ids, a).equal(one_by_one(*streamed, ids, b))) << type;
    // Products of bfloat16 matrices round their inputs as well, those of blocks do not.
    const double bound = type == "bf16" ? 0.2 : 2e-4;
    EXPECT_LT(difference(resident->forward(ids), streamed->forward(ids)), bound) << type;
  }
}

TEST_F(Inference, LayersOfDifferentPrecisionRunTogether) {
  const auto reference = random_model(small_config());
  const at::Tensor ids = some_ids(2, 12);
  const at::Tensor expected = reference->forward(ids);
  const auto model =
      load(*reference, "cpu fp32 *1 -> cpu bf16 *1 -> cpu fp32i8 *1 -> cpu fp32i8-seed");
  EXPECT_LT(difference(model->forward(ids), expected), 0.2 * expected.abs().max().item<double>());
}

TEST_F(Inference, RescalingChangesNoMoreThanEpsilonDoes) {
  ModelConfig config = small_config();
  config.n_layer = 5;
  const auto reference = random_model(config);
  const at::Tensor ids = some_ids(1, 10);
  const at::Tensor plain = load(*reference, "cpu fp32")->forward(ids);
  const auto rescaled = load(*reference, InferenceOptions{"cpu fp32", HeadQkReduce::kSum, 2});
  const double parallel = difference(rescaled->forward(ids), plain);
  State state;
  EXPECT_LT(parallel, 1e-2);
  EXPECT_GT(parallel, 0) << "the period is not in use";
  EXPECT_LT(difference(one_by_one(*rescaled, ids, state), rescaled->forward(ids)), 2e-4);
}

TEST_F(Inference, ReadsFilesOf16Bits) {
  const auto reference = random_model(small_config());
  NamedTensors narrow;
  for (const auto& [name, tensor] : ordered_parameters(*reference)) {
    narrow.emplace_back(name, tensor.to(at::kBFloat16));
  }
  const fs::path file = folder_ / "narrow.safetensors";
  save_safetensors(narrow, file);
  const at::Tensor ids = some_ids(1, 8);
  State a, b, c, d;
  const auto wide = load_inference_model(formats::open_tensor_file(file), {"cpu fp32"});
  const auto same = load_inference_model(formats::open_tensor_file(file), {"cpu bf16"});
  const auto streamed = load_inference_model(formats::open_tensor_file(file), {"cpu bf16 *0+"});
  const at::Tensor logits = one_by_one(*wide, ids, a);
  EXPECT_TRUE(one_by_one(*same, ids, b).equal(one_by_one(*streamed, ids, c)));
  EXPECT_LT(difference(one_by_one(*same, ids, d), logits), 1e-4);
}

TEST_F(Inference, RefusesWithOneLine) {
  const auto reference = random_model(small_config());
  for (const auto& [strategy, text] :
       {std::pair{"cuda fp16", "device cuda"}, std::pair{"cpu fp32 *1 -> cuda:1 fp16", "cuda:1"},
        std::pair{"cpu fp32i8 *1+", "cannot be streamed"}, std::pair{"fp31", "'fp31'"}}) {
    try {
      load(*reference, std::string(strategy));
      ADD_FAILURE() << strategy << " passed";
    } catch (const UserError& error) {
      EXPECT_NE(std::string(error.what()).find(text), std::string::npos) << error.what();
    }
  }
  const auto model = load(*reference, "cpu fp32");
  EXPECT_THROW(model->forward(at::full({1, 1}, 50, at::kLong)), c10::Error);
  EXPECT_THROW(model->forward(at::full({1}, 1, at::kLong)), c10::Error);
  EXPECT_THROW(model->forward(at::full({1, 1}, 1.0)), c10::Error);
  State wrong;
  wrong.set("blocks.0.att.xx", at::zeros({1, 3}));
  EXPECT_THROW(model->forward(some_ids(1, 1), wrong), c10::Error);
  // What is beyond fp16 is no number there.
  at::Tensor huge = reference->named_parameters()["blocks.0.ffn.key.weight"];
  huge[0][0] = 1e6;
  EXPECT_THROW(load(*reference, "cpu fp16"), UserError);
  EXPECT_TRUE(
      at::isfinite(load(*reference, "cpu bf16")->forward(some_ids(1, 2))).all().item<bool>());
}

TEST_F(Inference, CountsTheBytesThatATokenReads) {
  const auto reference = random_model(small_config());
  save_safetensors(ordered_parameters(*reference), folder_ / "model.safetensors");
  const int64_t block = 13 * 64 * 64, head = 50 * 64;
  for (const auto& [strategy, bytes] :
       {std::pair{"fp32", 4 * (4 * block + head)}, std::pair{"fp16", 2 * (4 * block + head)},
        std::pair{"i8", 4 * block + head}, std::pair{"cpu fp32 *1+", 4 * (4 * block + head)},
        std::pair{"cpu fp32 *1 -> cpu bf16", 4 * block + 2 * (3 * block + head)}}) {
    const auto model =
        load_inference_model(formats::open_tensor_file(folder_ / "model.safetensors"), {strategy});
    EXPECT_EQ(model->weight_bytes(), bytes) << strategy;
  }
}

TEST_F(Inference, KnowsWhichModelsItRuns) {
  const auto reference = random_model(small_config());
  const fs::path file = folder_ / "other.safetensors";
  auto weights = ordered_parameters(*reference);
  save_safetensors(weights, file);
  EXPECT_TRUE(can_run_inference(formats::open_tensor_file(file)));
  weights.emplace_back("blocks.1.att.gate.weight", at::zeros({64, 64}));
  save_safetensors(weights, file);
  EXPECT_FALSE(can_run_inference(formats::open_tensor_file(file)));
}

}  // namespace
}  // namespace rwkv::model
