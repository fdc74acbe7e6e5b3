// The loss of the head in chunks against the same from whole logits, in float64.
#include "model/head_loss.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <string>

namespace rwkv::model {
namespace {

using Tensors = std::vector<at::Tensor>;

struct Case {
  HeadInput head;
  at::Tensor targets;
  HeadLossOptions options;

  [[nodiscard]] Tensors leaves() const {
    Tensors all{head.x_BTC, head.weight_VC};
    if (head.head_qk) all.insert(all.end(), {head.head_qk->q_BTD, head.head_qk->k_BSD});
    return all;
  }
};

enum Kind { kPlain, kSum, kMax };

/// 600 rows of 9,000 logits: two chunks for the whole batch, and two for each sequence of Head-QK.
Case random_case(Kind kind, at::ScalarType type = at::kDouble, int64_t B = 1, int64_t T = 600,
                 int64_t V = 9000) {
  at::manual_seed(static_cast<uint64_t>(kind) + 1);
  const auto leaf = [&](at::IntArrayRef sizes) {
    return at::randn(sizes, at::kDouble).to(type).requires_grad_();
  };
  Case c;
  c.head = {leaf({B, T, 4}), leaf({V, 4}), {}};
  if (kind != kPlain) {
    // Ids of a small range, so that they repeat.
    c.head.head_qk = {leaf({B, T, 3}), leaf({B, T, 3}), at::randint(0, 20, {B, T}, at::kLong),
                      kind == kMax ? HeadQkReduce::kMax : HeadQkReduce::kSum};
  }
  c.targets = at::randint(0, V, {B, T}, at::kLong);
  const auto math = type == at::kDouble ? at::kDouble : at::kFloat;
  c.options.weights_BT = (at::rand({B, T}) / 100).to(math);
  c.options.weights_BT[0][1] = 0;
  c.options.l2wrap = 0.01;
  return c;
}

/// The slow twin: whole logits, and L2Wrap as a term whose gradient is the wanted one.
at::Tensor twin_logits(const HeadInput& head) {
  at::Tensor logits = head.x_BTC.matmul(head.weight_VC.t());
  if (head.head_qk) {
    const HeadQkScores scores = head_qk_scores(*head.head_qk, logits.size(2));
    logits = logits.scatter_add(2, scores.ids_BTS, scores.c_BTS);
  }
  return logits;
}

at::Tensor twin_loss(const Case& c, double l2wrap_factor) {
  const at::Tensor logits = twin_logits(c.head);
  const at::Tensor losses =
      -at::log_softmax(logits, 2).gather(2, c.targets.unsqueeze(2)).squeeze(2);
  const at::Tensor largest = std::get<0>(logits.max(2));
  const at::Tensor pull = largest.square().sum() * (c.options.l2wrap * l2wrap_factor / 2);
  return (losses * c.options.weights_BT).sum() + pull - pull.detach();
}

void expect_equal(const Tensors& got, const Tensors& expected, double bound) {
  ASSERT_EQ(got.size(), expected.size());
  for (size_t i = 0; i < got.size(); ++i) {
    const at::Tensor reference = expected[i].to(at::kDouble);
    const double scale = reference.abs().max().item<double>();
    EXPECT_LE((got[i].to(at::kDouble) - reference).abs().max().item<double>(), bound * scale) << i;
  }
}

class HeadLoss : public testing::TestWithParam<Kind> {};

TEST_P(HeadLoss, EqualsWholeLogitsWithGradients) {
  const Case c = random_case(GetParam());
  ASSERT_LT(head_chunk_rows(600, 9000), 600);
  const at::Tensor loss = head_loss(c.head, c.targets, c.options), expected = twin_loss(c, 1);
  EXPECT_NEAR(loss.item<double>(), expected.item<double>(), 1e-12);
  expect_equal(torch::autograd::grad({loss}, c.leaves()),
               torch::autograd::grad({expected}, c.leaves()), 1e-12);
  expect_equal({head_cross_entropy(c.head, c.targets)},
               {-at::log_softmax(twin_logits(c.head), 2)
                     .gather(2, c.targets.unsqueeze(2))
                     .squeeze(2)
                     .detach()},
               1e-12);
}

TEST_P(HeadLoss, AnotherGradientThanTheExpectedOneCountsToo) {
  Case c = random_case(GetParam(), at::kDouble, 2, 7, 30);
  const Tensors expected = torch::autograd::grad({twin_loss(c, 1) * 8}, c.leaves());
  for (const double guess : {1.0, 8.0}) {
    c.options.expected_gradient = guess;
    expect_equal(torch::autograd::grad({head_loss(c.head, c.targets, c.options) * 8}, c.leaves()),
                 expected, 1e-12);
  }
}

TEST_P(HeadLoss, L2WrapMayIgnoreTheGradientThatWasExpected) {
  Case c = random_case(GetParam(), at::kDouble, 2, 7, 30);
  c.options.l2wrap_ignores_gradient = true;
  c.options.expected_gradient = 8;
  const at::Tensor loss = head_loss(c.head, c.targets, c.options) * 8;
  expect_equal(torch::autograd::grad({loss}, c.leaves()),
               torch::autograd::grad({twin_loss(c, 1.0 / 8) * 8}, c.leaves()), 1e-12);
  const at::Tensor other = head_loss(c.head, c.targets, c.options) * 4;
  EXPECT_THROW(torch::autograd::grad({other}, c.leaves()), c10::Error);
}

TEST_P(HeadLoss, Bfloat16SumsChunksInFloat32) {
  Case c = random_case(GetParam(), at::kBFloat16);
  c.options.l2wrap = 0;  // which logit is the largest changes with the rounding
  Case wide = c;
  const auto widen = [](const at::Tensor& t) {
    return t.detach().to(at::kDouble).requires_grad_();
  };
  wide.head.x_BTC = widen(c.head.x_BTC);
  wide.head.weight_VC = widen(c.head.weight_VC);
  if (c.head.head_qk) {
    wide.head.head_qk->q_BTD = widen(c.head.head_qk->q_BTD);
    wide.head.head_qk->k_BSD = widen(c.head.head_qk->k_BSD);
  }
  const at::Tensor loss = head_loss(c.head, c.targets, c.options);
  EXPECT_EQ(loss.scalar_type(), at::kFloat);
  EXPECT_NEAR(loss.item<double>() / twin_loss(wide, 1).item<double>(), 1, 2e-3);
  if (GetParam() == kMax) return;  // and so does the largest score
  const Tensors got = torch::autograd::grad({loss}, c.leaves());
  EXPECT_EQ(got[1].scalar_type(), at::kBFloat16);
  expect_equal(got, torch::autograd::grad({twin_loss(wide, 1)}, wide.leaves()), 3e-2);
}

INSTANTIATE_TEST_SUITE_P(PlainSumMax, HeadLoss, testing::Values(kPlain, kSum, kMax));

TEST(HeadLoss, FrozenHeadGetsNoGradient) {
  Case c = random_case(kPlain, at::kFloat, 2, 7, 30);
  c.head.weight_VC = c.head.weight_VC.detach();
  head_loss(c.head, c.targets, c.options).backward();
  EXPECT_TRUE(c.head.x_BTC.grad().defined());
  EXPECT_FALSE(c.head.weight_VC.grad().defined());
}

TEST(HeadLoss, ChunksAreEvenAndBounded) {
  EXPECT_EQ(head_chunk_rows(1024, 256), 1024);
  EXPECT_EQ(head_chunk_rows(4096, 5000), 820);   // five of at most 838
  EXPECT_EQ(head_chunk_rows(8192, 50277), 512);  // never fewer than 512
  EXPECT_EQ(head_chunk_rows(1, 50277), 1);
}

TEST(HeadLoss, WrongInputsAreNamedWithBothValues) {
  const auto error_of = [](const Case& c) -> std::string {
    try {
      head_loss(c.head, c.targets, c.options);
    } catch (const c10::Error& error) {
      return error.what_without_backtrace();
    }
    return "";
  };
  Case c = random_case(kPlain, at::kFloat, 2, 7, 30);
  EXPECT_EQ(error_of(c), "");
  c.targets = at::zeros({2, 6}, at::kLong);
  EXPECT_NE(error_of(c).find("targets must be int64 [2, 7], got Long [2, 6]"), std::string::npos);
  c = random_case(kPlain, at::kFloat, 2, 7, 30);
  c.options.weights_BT = at::ones({2, 7}, at::kDouble);
  EXPECT_NE(error_of(c).find("weights must be Float [2, 7]"), std::string::npos);
  c = random_case(kPlain, at::kFloat, 2, 7, 30);
  c.head.weight_VC = at::ones({30, 5});
  EXPECT_NE(error_of(c).find("the head is [30, 5], x is [2, 7, 4]"), std::string::npos);
}

}  // namespace
}  // namespace rwkv::model
