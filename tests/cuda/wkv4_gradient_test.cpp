// Gradients of the WKV-4 operator: finite differences, segments joined by the state, resets.
#include <gtest/gtest.h>

#include "tests/cuda/wkv4_twin.h"

namespace rwkv::ops {
namespace {

constexpr int64_t S = kWkvTileTokens;

Wkv4Case slice(const Wkv4Case& in, int64_t begin, int64_t end, const Wkv4State& state) {
  Wkv4Case part{in.time_decay,
                in.time_first,
                in.k.slice(1, begin, end),
                in.v.slice(1, begin, end),
                state,
                {}};
  if (in.reset.defined()) part.reset = in.reset.slice(1, begin, end);
  return part;
}

/// The loss of gradients(): scale-free in the final state.
double loss_of(const Wkv4Case& in, const at::Tensor& gy, const at::Tensor& ca,
               const at::Tensor& cb) {
  const Wkv4Result out = run(in);
  const at::Tensor state = (out.a * ca + out.b * cb) * out.p.exp();
  return ((out.y * gy).sum() + state.sum()).item<double>();
}

/// Central differences of loss_of by every element of every input against the operator's backward.
void expect_gradients_match_differences(const Wkv4Case& in) {
  const at::Tensor gy = at::randn(in.k.sizes(), at::kDouble);
  const at::Tensor ca = at::randn({in.k.size(0), in.k.size(2)}, at::kDouble);
  const at::Tensor cb = at::randn({in.k.size(0), in.k.size(2)}, at::kDouble);
  const auto analytic = gradients(run, in, gy, ca, cb);
  const at::Tensor* const inputs[] = {&in.time_decay, &in.time_first, &in.k,      &in.v,
                                      &in.state.a,    &in.state.b,    &in.state.p};
  constexpr double kStep = 1e-5;
  for (size_t i = 0; i < analytic.size(); ++i) {
    at::Tensor flat = inputs[i]->view({-1});
    for (int64_t j = 0; j < flat.numel(); ++j) {
      double* x = flat.data_ptr<double>() + j;
      const double value = *x;
      *x = value + kStep;
      const double above = loss_of(in, gy, ca, cb);
      *x = value - kStep;
      const double below = loss_of(in, gy, ca, cb);
      *x = value;
      ASSERT_NEAR(analytic[i].view({-1})[j].item<double>(), (above - below) / (2 * kStep), 1e-6)
          << "input " << i << " element " << j << " T " << in.k.size(1);
    }
  }
}

TEST(Wkv4Gradient, MatchesFiniteDifferences) {
  for (const int64_t T : lengths_around_tiles()) {
    at::manual_seed(static_cast<uint64_t>(T));
    expect_gradients_match_differences(random_case(2, T, 3, at::kDouble));
  }
}

TEST(Wkv4Gradient, MatchesFiniteDifferencesWithState) {
  std::vector<int64_t> lengths = lengths_around_tiles();
  lengths.push_back(0);
  for (const int64_t T : lengths) {
    at::manual_seed(static_cast<uint64_t>(T));
    Wkv4Case in = random_case(2, T, 3, at::kDouble);
    in.state = random_state(2, 3, at::kDouble);
    expect_gradients_match_differences(in);
  }
}

TEST(Wkv4Gradient, MatchesFiniteDifferencesWithResets) {
  at::manual_seed(3);
  Wkv4Case in = random_case(2, S + 5, 3, at::kDouble);
  in.state = random_state(2, 3, at::kDouble);
  in.reset = at::rand({2, S + 5}) < 0.15;
  expect_gradients_match_differences(in);
}

/// Loss and gradients of one sequence cut at `cuts`, with the state handed on and gradients flowing
/// back through it.
Wkv4Result run_in_segments(const Wkv4Case& in, const std::vector<int64_t>& cuts) {
  Wkv4State state = in.state;
  std::vector<at::Tensor> ys;
  int64_t begin = 0;
  for (size_t i = 0; i <= cuts.size(); ++i) {
    const int64_t end = i < cuts.size() ? cuts[i] : in.k.size(1);
    const Wkv4Result part = run(slice(in, begin, end, state));
    state = {part.a, part.b, part.p};
    ys.push_back(part.y);
    begin = end;
  }
  return {at::cat(ys, 1), state.a, state.b, state.p};
}

class Wkv4Segments : public testing::TestWithParam<std::vector<int64_t>> {};

TEST_P(Wkv4Segments, EqualTheWholeWithGradientsThroughTheState) {
  at::manual_seed(4);
  Wkv4Case in = random_case(2, 71, 5, at::kDouble);
  in.state = random_state(2, 5, at::kDouble);
  const at::Tensor gy = at::randn(in.k.sizes(), at::kDouble);
  const at::Tensor ca = at::randn({2, 5}, at::kDouble), cb = at::randn({2, 5}, at::kDouble);
  const auto segments = [](const Wkv4Case& c) { return run_in_segments(c, GetParam()); };
  EXPECT_LE(max_error(segments(in).y, run(in).y), 1e-13);
  const auto whole = gradients(run, in, gy, ca, cb);
  const auto parts = gradients(segments, in, gy, ca, cb);
  for (size_t i = 0; i < whole.size(); ++i) EXPECT_LE(max_error(parts[i], whole[i]), 1e-12) << i;
}

INSTANTIATE_TEST_SUITE_P(Cuts, Wkv4Segments,
                         testing::Values(std::vector<int64_t>{1}, std::vector<int64_t>{15},
                                         std::vector<int64_t>{16}, std::vector<int64_t>{17},
                                         std::vector<int64_t>{S - 1}, std::vector<int64_t>{S},
                                         std::vector<int64_t>{S + 1}, std::vector<int64_t>{70},
                                         std::vector<int64_t>{0, 71},
                                         std::vector<int64_t>{7, 8, 23, 64}));

TEST(Wkv4Gradient, FloatSegmentsEqualTheWhole) {
  at::manual_seed(5);
  const Wkv4Case in = random_case(2, 90, 20);
  const at::Tensor gy = at::randn(in.k.sizes());
  const auto segments = [](const Wkv4Case& c) { return run_in_segments(c, {13, 50}); };
  const auto whole = gradients(run, in, gy), parts = gradients(segments, in, gy);
  for (size_t i = 0; i < whole.size(); ++i) EXPECT_LE(rms_error(parts[i], whole[i]), 2e-6) << i;
}

TEST(Wkv4Gradient, EmptyStateOfOtherProgramsMeansNothingSeen) {
  at::manual_seed(6);
  const Wkv4Case in = random_case(2, 40, 20);
  Wkv4Case given = in;
  given.state = {at::zeros({2, 20}), at::zeros({2, 20}), at::full({2, 20}, -1e30)};
  EXPECT_TRUE(at::equal(run(given).y, run(in).y));
  const at::Tensor gy = at::randn(in.k.sizes());
  const auto grad = gradients(run, given, gy), expected = gradients(run, in, gy);
  for (size_t i = 0; i < 4; ++i) EXPECT_TRUE(at::equal(grad[i], expected[i])) << i;
  EXPECT_EQ(grad[4].abs().max().item<float>(), 0);
}

TEST(Wkv4Gradient, LossOnTheStateAloneReachesTheInputs) {
  at::manual_seed(7);
  Wkv4Case in = random_case(2, 40, 6, at::kDouble);
  in.k.requires_grad_();
  const Wkv4Result out = run(in);
  EXPECT_FALSE(out.p.requires_grad());
  // a / b is scale-free; only the gradient of y is undefined here.
  const auto got = torch::autograd::grad({(out.a / out.b).sum()}, {in.k})[0];
  Wkv4Case twin_in = in;
  twin_in.k = in.k.detach().clone().requires_grad_();
  const Wkv4Result twin = slow_twin(twin_in);
  const auto expected = torch::autograd::grad({(twin.a / twin.b).sum()}, {twin_in.k})[0];
  EXPECT_LE(max_error(got, expected), 1e-12);
}

TEST(Wkv4Gradient, ZeroGradientsOfTheLastTokensAreHarmless) {
  at::manual_seed(8);
  const Wkv4Case in = random_case(2, 90, 20);
  at::Tensor gy = at::randn(in.k.sizes());
  gy.slice(1, 40).zero_();
  const auto got = gradients(run, in, gy);
  const auto expected = gradients(slow_twin, in.to(at::kDouble), gy);
  for (size_t i = 0; i < got.size(); ++i) EXPECT_LE(rms_error(got[i], expected[i]), 5e-6) << i;
  EXPECT_EQ(got[2].slice(1, 40).abs().max().item<float>(), 0);
}

TEST(Wkv4Reset, PackedRowEqualsItsDocuments) {
  for (const auto type : {at::kFloat, at::kDouble}) {
    at::manual_seed(9);
    Wkv4Case in = random_case(2, 80, 21, type);
    in.reset = at::zeros({2, 80}, at::kBool);
    const std::vector<int64_t> starts{0, 5, S, 47, 79, 80};
    for (size_t i = 0; i + 1 < starts.size(); ++i) in.reset.select(1, starts[i]).fill_(true);
    const at::Tensor gy = at::randn(in.k.sizes(), type);
    const at::Tensor y = run(in).y;
    const auto grad = gradients(run, in, gy);
    at::Tensor g_decay = at::zeros({21}, at::kDouble), g_first = at::zeros({21}, at::kDouble);
    const double bound = type == at::kDouble ? 1e-12 : 2e-6;
    for (size_t i = 0; i + 1 < starts.size(); ++i) {
      Wkv4Case document = slice(in, starts[i], starts[i + 1], {});
      document.reset = at::Tensor();
      EXPECT_LE(max_error(y.slice(1, starts[i], starts[i + 1]), run(document).y), bound);
      const auto part = gradients(run, document, gy.slice(1, starts[i], starts[i + 1]));
      for (const size_t j : {2, 3}) {
        const at::Tensor packed = grad[j].slice(1, starts[i], starts[i + 1]);
        EXPECT_LE((packed - part[j]).abs().max().item<double>(), bound * 10) << i << " " << j;
      }
      g_decay += part[0];
      g_first += part[1];
    }
    EXPECT_LE(max_error(grad[0], g_decay), bound * 5);
    EXPECT_LE(max_error(grad[1], g_first), bound * 5);
  }
}

TEST(Wkv4Reset, MatchesTwinWithStateAndRandomResets) {
  at::manual_seed(10);
  Wkv4Case in = random_case(3, 75, 10);
  in.state = random_state(3, 10);
  in.reset = at::rand({3, 75}) < 0.1;
  EXPECT_LE(rms_error(run(in).y, slow_twin(in).y), 3e-6);
}

TEST(Wkv4Reset, AllFalseEqualsNoResetBitForBit) {
  at::manual_seed(11);
  Wkv4Case in = random_case(2, 70, 40);
  in.state = random_state(2, 40);
  const at::Tensor gy = at::randn(in.k.sizes());
  Wkv4Case with = in;
  with.reset = at::zeros({2, 70}, at::kBool);
  EXPECT_TRUE(at::equal(run(with).y, run(in).y));
  const auto grad = gradients(run, with, gy), expected = gradients(run, in, gy);
  for (size_t i = 0; i < grad.size(); ++i) EXPECT_TRUE(at::equal(grad[i], expected[i])) << i;
}

TEST(Wkv4Reset, CutsTheGivenState) {
  at::manual_seed(12);
  Wkv4Case in = random_case(1, 4, 6);
  in.state = random_state(1, 6);
  in.reset = torch::tensor({{true, false, false, false}});
  EXPECT_TRUE(at::equal(run(in).y.select(1, 0), in.v.select(1, 0)));
  const auto grad = gradients(run, in, at::randn(in.k.sizes()));
  for (const size_t i : {4, 5, 6}) EXPECT_EQ(grad[i].abs().max().item<float>(), 0) << i;
}

}  // namespace
}  // namespace rwkv::ops
