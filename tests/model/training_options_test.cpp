#include <gtest/gtest.h>
#include <torch/torch.h>

#include <map>
#include <string>

#include "model/dropout.h"
#include "model/factory.h"
#include "model/grad_checkpoint.h"
#include "model/head_qk.h"
#include "model/precision.h"

namespace rwkv::model {
namespace {

std::shared_ptr<LanguageModel> random_model(ModelConfig config) {
  config.n_layer = 3;
  config.n_embd = 32;
  config.vocab_size = 50;
  auto model = build_model(config);
  at::Generator generator = at::detail::createCPUGenerator(7);
  const torch::NoGradGuard no_grad;
  for (auto& parameter : model->parameters()) parameter.normal_(0.1, 0.3, generator);
  return model;
}

at::Tensor some_ids() {
  at::Generator generator = at::detail::createCPUGenerator(11);
  return at::randint(0, 50, {2, 9}, generator, at::kLong);
}

/// Logits and all gradients of one pass with `options`.
std::map<std::string, at::Tensor> pass(LanguageModel& model, const TrainingOptions& options) {
  model.zero_grad();
  model.training_options = options;
  const at::Tensor logits = model.forward(some_ids());
  logits.square().sum().backward();
  std::map<std::string, at::Tensor> found{{"logits", logits.detach()}};
  for (const auto& entry : model.named_parameters()) {
    found[entry.key()] = entry.value().grad().clone();
  }
  return found;
}

class GradCheckpoint : public ::testing::TestWithParam<int> {};

TEST_P(GradCheckpoint, EqualsThePlainPassToTheLastBit) {
  ModelConfig config;
  config.pre_ffn = GetParam() == 1;
  config.head_qk = GetParam() == 2 ? 16 : 0;
  const double dropout = GetParam() == 3 ? 0.2 : 0.0;
  const auto model = random_model(config);
  if (GetParam() == 4) convert_parameters(*model, at::kBFloat16);
  const auto plain = pass(*model, {.grad_cp = false, .dropout = dropout, .dropout_seed = 5});
  const auto recomputed = pass(*model, {.grad_cp = true, .dropout = dropout, .dropout_seed = 5});
  ASSERT_EQ(plain.size(), recomputed.size());
  for (const auto& [name, value] : plain)
    EXPECT_TRUE(at::equal(value, recomputed.at(name))) << name;
}

INSTANTIATE_TEST_SUITE_P(PlainPreFfnHeadQkDropoutBf16, GradCheckpoint, ::testing::Range(0, 5));

TEST(GradCheckpoint, KeepsOnlyTheInputAndRunsTheSegmentAgain) {
  int runs = 0;
  const at::Tensor weight = at::full({4}, 3.0).set_requires_grad(true);
  const at::Tensor x = at::ones({4}).set_requires_grad(true);
  const auto segment = [&](const at::Tensor& in) {
    ++runs;
    return (in * weight).exp();
  };
  const at::Tensor y = grad_checkpoint(segment, x);
  EXPECT_EQ(runs, 1);
  y.sum().backward();
  EXPECT_EQ(runs, 2);
  EXPECT_TRUE(at::equal(weight.grad(), y.detach()));
  EXPECT_TRUE(at::equal(x.grad(), 3 * y.detach()));
  const torch::NoGradGuard no_grad;
  grad_checkpoint(segment, x);
  EXPECT_EQ(runs, 3);  // a plain call: nothing to recompute
}

TEST(Dropout, IsAFunctionOfSeedAndSiteAndKeepsTheMean) {
  const at::Tensor x = at::ones({100, 100});
  const at::Tensor once = Dropout(0.25, 3)(x, 1);
  EXPECT_TRUE(at::equal(once, Dropout(0.25, 3)(x, 1)));
  EXPECT_FALSE(at::equal(once, Dropout(0.25, 3)(x, 2)));
  EXPECT_FALSE(at::equal(once, Dropout(0.25, 4)(x, 1)));
  EXPECT_NEAR((once == 0).to(at::kFloat).mean().item<float>(), 0.25F, 0.02F);
  EXPECT_NEAR(once.max().item<float>(), 1 / 0.75F, 1e-6F);
  EXPECT_TRUE(Dropout()(x, 0).is_same(x));
  EXPECT_THROW(Dropout(1.0, 0), c10::Error);
}

TEST(Dropout, ActsInTrainingAlone) {
  const auto model = random_model({});
  model->training_options = {.dropout = 0.5, .dropout_seed = 1};
  const at::Tensor dropped = model->forward(some_ids()).detach();
  model->eval();
  const at::Tensor whole = model->forward(some_ids()).detach();
  EXPECT_GT((dropped - whole).abs().max().item<float>(), 1e-3F);
  model->train();
  const torch::NoGradGuard no_grad;
  EXPECT_TRUE(at::equal(whole, model->forward(some_ids())));
}

/// Head-QK by the definition, entry by entry.
at::Tensor head_qk_twin(const at::Tensor& x, const at::Tensor& ids, const at::Tensor& head_q,
                        const at::Tensor& head_k, HeadQkReduce reduce, int64_t V) {
  const at::Tensor q = x.matmul(head_q.t());
  const at::Tensor k = x.matmul(head_k.t());
  at::Tensor logits = at::zeros({x.size(0), x.size(1), V}, x.options());
  for (int64_t b = 0; b < x.size(0); ++b) {
    for (int64_t t = 0; t < x.size(1); ++t) {
      std::map<int64_t, double> added;
      for (int64_t s = 0; s <= t; ++s) {
        const double c = q[b][t].dot(k[b][s]).item<double>() / static_cast<double>(head_q.size(0));
        const auto [place, is_new] = added.try_emplace(ids[b][s].item<int64_t>(), c);
        if (is_new) continue;
        place->second =
            reduce == HeadQkReduce::kSum ? place->second + c : std::max(place->second, c);
      }
      for (const auto& [id, value] : added) logits[b][t][id] = value;
    }
  }
  return logits;
}

TEST(HeadQk, SumAndMaxEqualTheDefinitionInOneAndInSeveralPieces) {
  at::Generator generator = at::detail::createCPUGenerator(5);
  const torch::NoGradGuard no_grad;
  const at::Tensor x = at::randn({2, 12, 8}, generator, at::kDouble);
  const at::Tensor ids = at::randint(0, 4, {2, 12}, generator, at::kLong);
  torch::nn::Linear head_q(torch::nn::LinearOptions(8, 6).bias(false));
  torch::nn::Linear head_k(torch::nn::LinearOptions(8, 6).bias(false));
  head_q->to(at::kDouble);
  head_k->to(at::kDouble);
  for (const HeadQkReduce reduce : {HeadQkReduce::kSum, HeadQkReduce::kMax}) {
    const at::Tensor expected = head_qk_twin(x, ids, head_q->weight, head_k->weight, reduce, 5);
    const at::Tensor zero = at::zeros({2, 12, 5}, at::kDouble);
    const at::Tensor whole = add_head_qk(zero, x, ids, head_q, head_k, reduce, nullptr);
    EXPECT_LT((whole - expected).abs().max().item<double>(), 1e-14);
    State state;
    for (int64_t t = 0; t < 12; ++t) {
      const auto row = [t](const at::Tensor& all) { return all.slice(1, t, t + 1); };
      const at::Tensor step =
          add_head_qk(row(zero), row(x), row(ids), head_q, head_k, reduce, &state);
      EXPECT_LT((step - row(expected)).abs().max().item<double>(), 1e-14) << t;
    }
  }
}

TEST(HeadQk, MaxSendsTheGradientToTheFirstLargestPlaceAlone) {
  const at::Tensor x = at::eye(4, at::kDouble).unsqueeze(0).clone().set_requires_grad(true);
  const at::Tensor ids = torch::tensor({1, 1, 1, 2}, at::kLong).unsqueeze(0);
  torch::nn::Linear head_q(torch::nn::LinearOptions(4, 1).bias(false));
  torch::nn::Linear head_k(torch::nn::LinearOptions(4, 1).bias(false));
  {
    const torch::NoGradGuard no_grad;
    head_q->to(at::kDouble);
    head_k->to(at::kDouble);
    head_q->weight.fill_(1);
    head_k->weight.copy_(torch::tensor({{2.0, 3.0, 3.0, 1.0}}, at::kDouble));
  }
  const at::Tensor logits = add_head_qk(at::zeros({1, 4, 3}, at::kDouble), x, ids, head_q, head_k,
                                        HeadQkReduce::kMax, nullptr);
  EXPECT_EQ(logits[0][3][1].item<double>(), 3);
  logits[0][3][1].backward();
  // The key of place 1 wins over its equal at place 2; places 0 and 2 get nothing.
  EXPECT_TRUE(at::equal(head_k->weight.grad(), torch::tensor({{0.0, 1.0, 0.0, 0.0}}, at::kDouble)));
}

TEST(Precision, DecaysStayFloat32AndHandlesSeeTheChange) {
  const auto model = random_model({});
  const at::Tensor handle = model->named_parameters()["blocks.1.att.key.weight"];
  const at::Tensor decay = model->named_parameters()["blocks.1.att.time_decay"].clone();
  convert_parameters(*model, at::kBFloat16);
  EXPECT_EQ(handle.scalar_type(), at::kBFloat16);
  EXPECT_TRUE(handle.requires_grad());
  EXPECT_TRUE(at::equal(decay, model->named_parameters()["blocks.1.att.time_decay"]));
  const at::Tensor logits = model->forward(some_ids());
  EXPECT_EQ(logits.scalar_type(), at::kBFloat16);
  logits.to(at::kFloat).square().sum().backward();
  EXPECT_EQ(handle.grad().scalar_type(), at::kBFloat16);
  EXPECT_THROW(convert_parameters(*model, at::kLong), c10::Error);
}

}  // namespace
}  // namespace rwkv::model
