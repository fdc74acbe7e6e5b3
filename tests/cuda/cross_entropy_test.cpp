#include "cuda/cross_entropy.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>
#include <string>

#include "tests/cuda/test_device.h"

namespace rwkv::ops {
namespace {

struct Rows {
  at::Tensor losses, gradient;
};

/// The slow twin in float64: log-softmax, its gradient, and L2Wrap at the first largest logit.
Rows twin(const at::Tensor& logits, const at::Tensor& targets, const at::Tensor& weights,
          double l2wrap) {
  const at::Tensor x = logits.to(at::kDouble).clone().requires_grad_();
  const at::Tensor losses = -at::log_softmax(x, 1).gather(1, targets.unsqueeze(1)).squeeze(1);
  at::Tensor g = torch::autograd::grad({(losses * weights.to(at::kDouble)).sum()}, {x})[0].clone();
  for (int64_t n = 0; n < x.size(0); ++n) {
    int64_t first = 0;
    for (int64_t v = 1; v < x.size(1); ++v) {
      if (x[n][v].item<double>() > x[n][first].item<double>()) first = v;
    }
    g[n][first] += l2wrap * x[n][first].detach();
  }
  return {losses.detach(), g};
}

double largest_difference(const at::Tensor& a, const at::Tensor& b) {
  return (a.cpu().to(at::kDouble) - b.cpu().to(at::kDouble)).abs().max().item<double>();
}

TEST(CrossEntropyRows, TurnIntoTheGradientOfTheTwinInPlace) {
  const std::pair<at::ScalarType, double> bounds[] = {
      {at::kDouble, 1e-13}, {at::kFloat, 2e-6}, {at::kBFloat16, 1e-2}, {at::kHalf, 1e-3}};
  for (const auto& [type, bound] : bounds) {
    for (const int64_t V : {1, 2, 15, 16, 17, 100}) {
      at::manual_seed(static_cast<uint64_t>(V));
      const at::Tensor logits = (at::randn({7, V}, at::kDouble) * 3).to(type);
      const at::Tensor targets = at::randint(0, V, {7}, at::kLong);
      const auto math = type == at::kDouble ? at::kDouble : at::kFloat;
      at::Tensor weights = at::rand({7}).to(math);
      weights[2] = 0;
      const Rows expected = twin(logits, targets, weights, 0.01);
      const at::Tensor rows = logits.to(test_device()).clone();
      const auto call = [&](bool gradient) {
        return cross_entropy_rows_(rows, targets.to(test_device()), weights.to(test_device()), 0.01,
                                   gradient);
      };
      EXPECT_LE(largest_difference(call(false), expected.losses), bound) << type << " " << V;
      EXPECT_EQ(largest_difference(rows, logits), 0) << "the logits are only read";
      EXPECT_LE(largest_difference(call(true), expected.losses), bound) << type << " " << V;
      EXPECT_LE(largest_difference(rows, expected.gradient), bound) << type << " " << V;
    }
  }
}

TEST(CrossEntropyRows, LargeLogitsNeitherOverflowNorLoseTheLoss) {
  const at::Tensor logits = torch::tensor({{1e4F, -1e4F, 0.0F}, {-3e38F, -3e38F, -3e38F}});
  const at::Tensor targets = torch::tensor({1, 0}, at::kLong);
  const at::Tensor rows = logits.to(test_device()).clone();
  const at::Tensor losses = cross_entropy_rows_(rows, targets.to(test_device()),
                                                at::ones({2}).to(test_device()), 0, true);
  EXPECT_EQ(losses[0].item<float>(), 2e4F);
  EXPECT_NEAR(losses[1].item<float>(), std::log(3.0F), 1e-6F);
  EXPECT_TRUE(at::isfinite(rows).all().item<bool>());
  EXPECT_EQ(rows[0][1].item<float>(), -1);
}

TEST(CrossEntropyRows, OfEqualLargestLogitsTheFirstIsPulled) {
  const at::Tensor rows = torch::tensor({{1.0F, 5.0F, 5.0F}}).to(test_device());
  const at::Tensor targets = torch::tensor({0}, at::kLong).to(test_device());
  cross_entropy_rows_(rows, targets, at::zeros({1}).to(test_device()), 0.5, true);
  EXPECT_TRUE(at::equal(rows.cpu(), torch::tensor({{0.0F, 2.5F, 0.0F}})));
}

std::string error_of(const at::Tensor& logits, const at::Tensor& targets) {
  try {
    cross_entropy_rows_(logits, targets, at::ones({2}), 0, true);
  } catch (const c10::Error& error) {
    return error.what_without_backtrace();
  }
  return "";
}

TEST(CrossEntropyRows, WrongShapesAreNamed) {
  const at::Tensor good = torch::tensor({0, 2}, at::kLong);
  EXPECT_NE(error_of(at::zeros({3, 2}).t(), good).find("contiguous"), std::string::npos);
  EXPECT_NE(error_of(at::zeros({4, 3}), good).find("of shape [4]"), std::string::npos);
  EXPECT_EQ(error_of(at::zeros({2, 3}), good), "");
}

/// The CPU's kernel names it; those of a GPU cannot.
TEST(CrossEntropyRows, AWrongTargetIsAnErrorOrALossThatIsNoNumber) {
  const at::Tensor rows = at::zeros({2, 3}).to(test_device());
  const at::Tensor targets = torch::tensor({0, 3}, at::kLong).to(test_device());
  try {
    const at::Tensor losses =
        cross_entropy_rows_(rows, targets, at::ones({2}).to(test_device()), 0, true);
    EXPECT_FALSE(std::isnan(losses[0].item<float>()));
    EXPECT_TRUE(std::isnan(losses[1].item<float>()));
  } catch (const c10::Error& error) {
    const std::string text = error.what_without_backtrace();
    EXPECT_NE(text.find("target 3 of row 1 is not in 0..2"), std::string::npos) << text;
  }
}

TEST(CrossEntropyRows, ShapesOnTheMetaDevice) {
  const auto meta = at::TensorOptions(at::kMeta);
  const at::Tensor losses =
      cross_entropy_rows_(at::empty({4, 9}, meta.dtype(at::kBFloat16)),
                          at::empty({4}, meta.dtype(at::kLong)), at::empty({4}, meta), 0, true);
  EXPECT_EQ(losses.sizes(), (std::vector<int64_t>{4}));
  EXPECT_EQ(losses.scalar_type(), at::kFloat);
}

}  // namespace
}  // namespace rwkv::ops
