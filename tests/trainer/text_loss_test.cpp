#include "trainer/text_loss.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>
#include <vector>

#include "data/base/error.h"
#include "model/factory.h"
#include "trainer/exit_code.h"
#include "trainer/lambada.h"

namespace rwkv::trainer {
namespace {

std::shared_ptr<model::LanguageModel> random_model() {
  model::ModelConfig config;
  config.n_layer = 2;
  config.n_embd = 32;
  config.vocab_size = 256;
  auto model = model::build_model(config);
  at::Generator generator = at::detail::createCPUGenerator(7);
  const torch::NoGradGuard no_grad;
  for (auto& parameter : model->parameters()) parameter.normal_(0.1, 0.3, generator);
  model->eval();
  return model;
}

std::vector<int64_t> some_ids(int64_t n) {
  std::vector<int64_t> ids;
  for (int64_t i = 0; i < n; ++i) ids.push_back(i * i * 37 % 256);
  return ids;
}

/// Nats of predicting ids[i + 1] after ids[begin..i], for i = begin ... end - 1, in one forward
/// pass.
std::vector<double> nats_of(model::LanguageModel& model, const std::vector<int64_t>& ids,
                            int64_t begin, int64_t end) {
  const torch::NoGradGuard no_grad;
  const at::Tensor all = torch::tensor(ids, at::kLong);
  const at::Tensor log_p =
      at::log_softmax(model.forward(all.slice(0, begin, end).unsqueeze(0)).squeeze(0), -1);
  std::vector<double> nats;
  for (int64_t i = begin; i < end; ++i) {
    nats.push_back(-log_p[i - begin][ids[static_cast<size_t>(i + 1)]].item<double>());
  }
  return nats;
}

double sum(const std::vector<double>& values) {
  double total = 0;
  for (const double value : values) total += value;
  return total;
}

TEST(TextLoss, WindowsStartFromTheEmptyStateAndTheLastIsShorter) {
  const auto model = random_model();
  const auto ids = some_ids(1 + 3 * 50 + 20);
  const TextLoss loss = loss_by_windows(*model, ids, 50);
  EXPECT_EQ(loss.tokens, 170);
  double expected = 0;
  std::vector<double> by_position(50);
  for (int64_t begin = 0; begin < 170; begin += 50) {
    const auto nats = nats_of(*model, ids, begin, std::min<int64_t>(begin + 50, 170));
    expected += sum(nats);
    for (size_t t = 0; t < nats.size(); ++t) by_position[t] += nats[t];
  }
  EXPECT_NEAR(loss.nats, expected, 1e-5 * expected);
  EXPECT_EQ(loss.tokens_at[19], 4);
  EXPECT_EQ(loss.tokens_at[20], 3);
  for (size_t t = 0; t < 50; ++t) EXPECT_NEAR(loss.nats_at[t], by_position[t], 1e-4) << t;
}

TEST(TextLoss, AStreamAndOneWideWindowAreTheSame) {
  const auto model = random_model();
  const auto ids = some_ids(700);  // several chunks of 256
  const double expected = sum(nats_of(*model, ids, 0, 699));
  int64_t done = 0;
  const TextLoss stream = loss_by_stream(*model, ids, [&](int64_t now, int64_t all) {
    EXPECT_GT(now, done);
    EXPECT_EQ(all, 699);
    done = now;
  });
  EXPECT_EQ(done, 699);
  EXPECT_NEAR(stream.nats, expected, 1e-5 * expected);
  EXPECT_NEAR(loss_by_windows(*model, ids, 5000).nats, expected, 1e-5 * expected);
}

TEST(TextLoss, NotFiniteWeightsAreNamed) {
  const auto model = random_model();
  const torch::NoGradGuard no_grad;
  model->named_parameters()["head.weight"][3].fill_(NAN);
  EXPECT_THROW(loss_by_stream(*model, some_ids(10)), NotFiniteError);
  EXPECT_THROW(loss_by_windows(*model, some_ids(10), 4), NotFiniteError);
}

TEST(TextLoss, ChecksItsInput) {
  const auto model = random_model();
  EXPECT_THROW(loss_by_stream(*model, some_ids(1)), c10::Error);
  EXPECT_THROW(loss_by_stream(*model, std::vector<int64_t>{1, 256}), c10::Error);
  EXPECT_THROW(loss_by_windows(*model, some_ids(9), 0), c10::Error);
}

TEST(Lambada, CutsAtTheLastSpace) {
  const auto texts = parse_lambada("{\"text\": \"a b c.\"}\n\n{\"text\": \"x  y\"}", "file");
  ASSERT_EQ(texts.size(), 2U);
  EXPECT_EQ(texts[0].context, "a b");
  EXPECT_EQ(texts[0].target, " c.");
  EXPECT_EQ(texts[1].context, "x ");
  EXPECT_THROW(parse_lambada("{\"text\": \"word\"}", "file"), UserError);
  EXPECT_THROW(parse_lambada("[1]", "file"), UserError);
  EXPECT_THROW(parse_lambada("\n", "file"), UserError);
}

TEST(Lambada, ScoresAContinuationTokenByToken) {
  const auto model = random_model();
  const auto ids = some_ids(12);
  const auto nats = nats_of(*model, ids, 0, 11);
  const ContinuationScore score =
      score_continuation(*model, std::span(ids).first(9), std::span(ids).subspan(9));
  EXPECT_NEAR(score.log_probability, -(nats[8] + nats[9] + nats[10]), 1e-4);

  const torch::NoGradGuard no_grad;
  const at::Tensor context = torch::tensor(ids, at::kLong).unsqueeze(0);
  const auto best = model->forward(context)[0][11].argmax().item<int64_t>();
  EXPECT_TRUE(score_continuation(*model, ids, std::vector<int64_t>{best}).greedy);
  EXPECT_FALSE(score_continuation(*model, ids, std::vector<int64_t>{(best + 1) % 256}).greedy);
}

TEST(Lambada, PerplexityIsPerText) {
  const LambadaResult result{.texts = 4, .correct = 1, .log_probability = -8};
  EXPECT_DOUBLE_EQ(result.perplexity(), std::exp(2.0));
  EXPECT_DOUBLE_EQ(result.accuracy(), 0.25);
}

}  // namespace
}  // namespace rwkv::trainer
