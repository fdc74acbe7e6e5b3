#include "model/weights.h"

#include <gtest/gtest.h>
#include <torch/torch.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <string>

#include "data/base/error.h"
#include "model/factory.h"
#include "model/init.h"

namespace rwkv::model {
namespace {

namespace fs = std::filesystem;

ModelConfig config(int64_t n_layer, int64_t n_embd) {
  ModelConfig c;
  c.n_layer = n_layer;
  c.n_embd = n_embd;
  c.vocab_size = 11;
  return c;
}

std::shared_ptr<LanguageModel> filled(const ModelConfig& c) {
  auto model = build_model(c);
  const torch::NoGradGuard no_grad;
  torch::manual_seed(5);
  for (auto& parameter : model->parameters()) parameter.normal_();
  return model;
}

class WeightFiles : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() / ("rwkv_weight_files_" + std::to_string(::getpid()));
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  formats::TensorFile stored(const LanguageModel& model, const std::string& name = "a.pth") const {
    save_pth(model, folder_ / name);
    return formats::open_tensor_file(folder_ / name);
  }
  fs::path folder_;
};

TEST_F(WeightFiles, LoadIntoTheParametersTensorByTensor) {
  const auto model = filled(config(2, 8));
  const auto file = stored(*model);
  const auto loaded = build_model(config_of(file));
  load_weights(*loaded, file);
  for (const auto& entry : model->named_parameters()) {
    EXPECT_TRUE(at::equal(entry.value(), loaded->named_parameters()[entry.key()])) << entry.key();
  }
}

TEST_F(WeightFiles, AreRoundedToTheTypeOfTheParameters) {
  const auto model = filled(config(1, 8));
  const auto file = stored(*model);
  for (const auto type : {at::kBFloat16, at::kHalf, at::kDouble}) {
    const auto loaded = build_model(config(1, 8));
    loaded->to(type);
    load_weights(*loaded, file);
    for (const auto& entry : model->named_parameters()) {
      EXPECT_TRUE(at::equal(entry.value().to(type), loaded->named_parameters()[entry.key()]))
          << entry.key() << " " << type;
    }
  }
}

TEST_F(WeightFiles, AreReadIntoStridedTensors) {
  const auto model = filled(config(1, 8));
  const auto file = stored(*model);
  const at::Tensor wide = at::zeros({11, 16});
  read_into(file, *file.find("emb.weight"), wide.slice(1, 0, 16, 2));
  EXPECT_TRUE(at::equal(wide.slice(1, 0, 16, 2), model->named_parameters()["emb.weight"]));
  EXPECT_EQ(wide.slice(1, 1, 16, 2).abs().max().item<float>(), 0);
  EXPECT_THROW(read_into(file, *file.find("emb.weight"), at::zeros({3})), c10::Error);
}

TEST_F(WeightFiles, ThatDoNotFitChangeNothing) {
  const auto file = stored(*filled(config(2, 8)));
  const auto other = filled(config(3, 8));
  const at::Tensor before = other->named_parameters()["emb.weight"].clone();
  try {
    load_weights(*other, file);
    FAIL() << "no error";
  } catch (const UserError& error) {
    EXPECT_NE(std::string(error.what()).find("blocks.2.ln1.weight is missing"), std::string::npos)
        << error.what();
  }
  EXPECT_TRUE(at::equal(before, other->named_parameters()["emb.weight"]));
}

TEST_F(WeightFiles, ThatAreDamagedAreRefused) {
  const fs::path path = folder_ / "b.pth";
  save_pth(*filled(config(1, 8)), path);
  std::fstream bytes(path, std::ios::in | std::ios::out | std::ios::binary);
  std::string all{std::istreambuf_iterator<char>(bytes), {}};
  const auto file = formats::open_tensor_file(path);
  const auto* data = file.find("head.weight")->storage.data();
  const auto at = data - file.files().front().bytes().data();
  bytes.seekp(at);
  bytes.put(static_cast<char>(all[static_cast<size_t>(at)] ^ 1));
  bytes.close();
  const auto loaded = build_model(config(1, 8));
  EXPECT_THROW(load_weights(*loaded, formats::open_tensor_file(path)), UserError);
}

bool lists(const std::vector<std::string>& names, const std::string& part) {
  return std::any_of(names.begin(), names.end(),
                     [&](const std::string& name) { return name.find(part) != std::string::npos; });
}

TEST_F(WeightFiles, LoadPartiallyWithAListOfWhatDidNotFit) {
  const auto small = filled(config(2, 8));
  const auto file = stored(*small);
  const auto wide = filled(config(3, 12));
  const at::Tensor head = wide->named_parameters()["head.weight"].clone();
  const PartialLoad load = load_weights_partially(*wide, file);
  EXPECT_TRUE(lists(load.unfit, "head.weight [11,8] -> [11,12]"));
  EXPECT_TRUE(lists(load.missing, "blocks.2.att.key.weight"));
  EXPECT_TRUE(lists(load.stretched, "blocks.1.att.time_decay [8] -> [12]"));
  EXPECT_TRUE(lists(load.stretched, "blocks.0.att.time_mix_k [1,1,8] -> [1,1,12]"));
  EXPECT_EQ(load.loaded, 0);
  EXPECT_TRUE(load.left_over.empty());
  EXPECT_TRUE(at::equal(head, wide->named_parameters()["head.weight"]));

  // Element i of 12 comes from place i/12*8: the rule of my_pile_stage 1.
  const at::Tensor source = small->named_parameters()["blocks.1.att.time_decay"];
  const at::Tensor target = wide->named_parameters()["blocks.1.att.time_decay"];
  for (int i = 0; i < 12; ++i) {
    const double place = i / 12.0 * 8;
    const int low = static_cast<int>(place);
    const double part = place - low;
    const double a = source[low].item<double>();
    const double b = source[std::min(low + 1, 7)].item<double>();
    EXPECT_NEAR(target[i].item<double>(),
                place >= 7 ? source[7].item<double>() : a + part * (b - a), 1e-6)
        << i;
  }
}

TEST_F(WeightFiles, LeftOversAreListedToo) {
  const auto deep = filled(config(3, 8));
  const auto file = stored(*deep);
  const auto shallow = build_model(config(2, 8));
  const PartialLoad load = load_weights_partially(*shallow, file);
  EXPECT_TRUE(lists(load.left_over, "blocks.2.ffn.key.weight"));
  EXPECT_EQ(load.loaded, static_cast<int64_t>(shallow->parameters().size()));
  EXPECT_TRUE(load.missing.empty() && load.unfit.empty() && load.stretched.empty());
}

}  // namespace
}  // namespace rwkv::model
