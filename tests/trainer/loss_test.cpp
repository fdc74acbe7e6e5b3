// The loss from where the head begins against the loss of whole logits.
#include "trainer/loss.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <map>
#include <string>

#include "model/factory.h"

namespace rwkv::trainer {
namespace {

std::shared_ptr<model::LanguageModel> random_model(const model::ModelConfig& options) {
  model::ModelConfig config = options;
  config.n_layer = 2;
  config.n_embd = 16;
  config.vocab_size = 40;
  auto model = model::build_model(config);
  at::Generator generator = at::detail::createCPUGenerator(7);
  const torch::NoGradGuard no_grad;
  for (auto& parameter : model->parameters()) {
    parameter.set_data(parameter.to(at::kDouble));
    parameter.normal_(0.1, 0.3, generator);
  }
  return model;
}

std::map<std::string, at::Tensor> gradients(model::LanguageModel& model, const at::Tensor& loss) {
  model.zero_grad();
  loss.backward();
  std::map<std::string, at::Tensor> all;
  for (const auto& entry : model.named_parameters()) all[entry.key()] = entry.value().grad();
  return all;
}

class HeadCrossEntropy : public testing::TestWithParam<int> {};

TEST_P(HeadCrossEntropy, EqualsTheLossOfWholeLogitsWithAllGradients) {
  model::ModelConfig config;
  config.head_qk = GetParam() == 0 ? 0 : 8;
  if (GetParam() == 2) config.head_qk_reduce = model::HeadQkReduce::kMax;
  const auto model = random_model(config);
  at::Generator generator = at::detail::createCPUGenerator(11);
  const at::Tensor ids = at::randint(0, 40, {2, 9}, generator, at::kLong);
  const at::Tensor targets = at::randint(0, 40, {2, 9}, generator, at::kLong);
  const at::Tensor mask = at::rand({2, 9}, generator, at::kFloat);
  const double scale = 16;
  for (const bool ignore : {false, true}) {
    const L2Wrap l2wrap{0.01, ignore};
    for (const at::Tensor& m : {at::Tensor(), mask, at::zeros({2, 9})}) {
      const at::Tensor whole = cross_entropy(model->forward(ids), targets, l2wrap, m);
      const auto expected = gradients(*model, whole * scale);
      const at::Tensor chunked =
          head_cross_entropy(model::forward_to_head(*model, ids), targets, l2wrap, m, scale);
      const auto got = gradients(*model, chunked * scale);
      EXPECT_NEAR(chunked.item<double>(), whole.item<double>(), 1e-13);
      for (const auto& [name, gradient] : expected) {
        const double bound = 1e-11 * std::max(1e-6, gradient.abs().max().item<double>());
        EXPECT_LE((got.at(name) - gradient).abs().max().item<double>(), bound) << name;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(PlainSumMax, HeadCrossEntropy, testing::Range(0, 3));

}  // namespace
}  // namespace rwkv::trainer
