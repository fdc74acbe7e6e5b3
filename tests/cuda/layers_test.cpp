// Layers of cuda/layers.h: layer norm, token shift, mix, gates and their products, against
// compositions of LibTorch's operators in float64 and against finite differences.
#include "cuda/layers.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <functional>
#include <limits>

#include "cuda/elementwise.h"
#include "cuda/norm_shift_mix.h"
#include "tests/cuda/test_device.h"

namespace rwkv::ops {
namespace {

using Tensors = std::vector<at::Tensor>;

/// rms(x - reference) / rms(reference).
double rms_error(const at::Tensor& x, const at::Tensor& reference) {
  const at::Tensor r = reference.detach().cpu().to(at::kDouble);
  const at::Tensor d = x.detach().cpu().to(at::kDouble) - r;
  const double scale = r.square().mean().sqrt().item<double>();
  return d.square().mean().sqrt().item<double>() / std::max(scale, 1e-30);
}

at::Tensor random(at::IntArrayRef sizes) { return at::randn(sizes, at::kDouble); }

/// Inputs of norm_mix_linear, all float64; `leaves` are those that have gradients.
struct Case {
  at::Tensor x, delta, weight, bias, previous, reset;
  Tensors mix, product;

  [[nodiscard]] Tensors leaves() const {
    Tensors all{x, weight, bias};
    if (delta.defined()) all.push_back(delta);
    if (previous.defined()) all.push_back(previous);
    all.insert(all.end(), mix.begin(), mix.end());
    all.insert(all.end(), product.begin(), product.end());
    return all;
  }
  /// A copy in `type` on the device of the test, whose leaves require gradients.
  [[nodiscard]] Case to(at::ScalarType type) const {
    const auto cast = [&](const at::Tensor& t) {
      return t.defined() ? t.detach().to(test_device(), type).clone().requires_grad_() : t;
    };
    Case copy{cast(x), cast(delta), cast(weight), cast(bias), cast(previous), reset, {}, {}};
    if (reset.defined()) copy.reset = reset.to(test_device());
    for (const at::Tensor& m : mix) copy.mix.push_back(cast(m));
    for (const at::Tensor& p : product) copy.product.push_back(cast(p));
    return copy;
  }
};

enum Options { kNothing = 0, kDelta = 1, kPrevious = 2, kReset = 4 };

Case random_case(int64_t B, int64_t T, int64_t C, int64_t mixes, int options) {
  Case in{random({B, T, C}) * 2 + 0.5, {}, random({C}), random({C}), {}, {}, {}, {}};
  if ((options & kDelta) != 0) in.delta = random({B, T, C});
  if ((options & kPrevious) != 0) in.previous = random({B, C});
  if ((options & kReset) != 0) in.reset = at::rand({B, T}) < 0.2;
  for (int64_t i = 0; i < mixes; ++i) {
    in.mix.push_back(at::rand({1, 1, C}, at::kDouble) * 1.5 - 0.2);
    in.product.push_back(random({C + i, C}) / std::sqrt(static_cast<double>(C)));
  }
  return in;
}

/// sum, last, products.
Tensors run(const Case& in) {
  std::vector<MixedLinear> products;
  for (size_t i = 0; i < in.mix.size(); ++i) products.push_back({in.mix[i], in.product[i]});
  const auto result =
      norm_mix_linear(in.x, in.delta, {in.weight, in.bias, 1e-5}, in.previous, in.reset, products);
  Tensors all{result.sum, result.last};
  all.insert(all.end(), result.out.begin(), result.out.end());
  return all;
}

/// The slow twin, with gradients by automatic differentiation.
Tensors twin(const Case& in) {
  const int64_t B = in.x.size(0), T = in.x.size(1), C = in.x.size(2);
  const at::Tensor sum = in.delta.defined() ? in.x + in.delta : in.x.clone();
  const at::Tensor z = at::layer_norm(sum, {C}, in.weight, in.bias, 1e-5);
  const at::Tensor first =
      in.previous.defined() ? in.previous.unsqueeze(1) : at::zeros({B, 1, C}, z.options());
  at::Tensor shifted = at::cat({first, z.slice(1, 0, T - 1)}, 1);
  if (in.reset.defined()) shifted = shifted * in.reset.logical_not().unsqueeze(2);
  Tensors all{sum, z.select(1, T - 1)};
  for (size_t i = 0; i < in.mix.size(); ++i) {
    all.push_back((z * in.mix[i] + shifted * (1 - in.mix[i])).matmul(in.product[i].t()));
  }
  return all;
}

/// Outputs, then gradients of sum_i out_i c_i by the leaves; c_i are the same random numbers for
/// every call with these shapes.
Tensors outputs_and_gradients(const std::function<Tensors(const Case&)>& f, const Case& in) {
  Tensors out = f(in);
  at::Generator generator = at::detail::createCPUGenerator(3);
  at::Tensor loss = at::zeros({}, at::TensorOptions(at::kDouble).device(in.x.device()));
  for (const at::Tensor& o : out) {
    const at::Tensor c = at::randn(o.sizes(), generator, at::kDouble).to(o.device());
    loss = loss + (o.to(at::kDouble) * c.to(o.scalar_type()).to(at::kDouble)).sum();
  }
  const Tensors gradients = torch::autograd::grad({loss}, in.leaves());
  for (at::Tensor& o : out) o = o.detach();
  out.insert(out.end(), gradients.begin(), gradients.end());
  return out;
}

/// Every combination of delta, previous and reset.
class NormMixLinear : public testing::TestWithParam<int> {};

TEST_P(NormMixLinear, EqualsTheTwinWithItsGradientsAroundThePieces) {
  for (const int64_t T : {1, 2, 63, 64, 65, 130}) {
    for (const auto& [C, mixes] : {std::pair<int64_t, int64_t>{5, 2}, {16, 1}, {37, 3}}) {
      at::manual_seed(static_cast<uint64_t>(T + C));
      const Case in = random_case(2, T, C, mixes, GetParam()).to(at::kDouble);
      const Tensors got = outputs_and_gradients(run, in),
                    expected = outputs_and_gradients(twin, in);
      ASSERT_EQ(got.size(), expected.size());
      for (size_t i = 0; i < got.size(); ++i) {
        EXPECT_LE(rms_error(got[i], expected[i]), 1e-12) << i << " T " << T << " C " << C;
      }
    }
  }
}

TEST_P(NormMixLinear, MatchesTheTwinInStorageOf32And16Bits) {
  const std::pair<at::ScalarType, double> bounds[] = {
      {at::kFloat, 3e-6}, {at::kBFloat16, 2e-2}, {at::kHalf, 3e-3}};
  for (const auto& [type, bound] : bounds) {
    at::manual_seed(5);
    const Case in = random_case(3, 70, 96, 3, GetParam()).to(type);
    const Tensors got = outputs_and_gradients(run, in);
    const Tensors expected = outputs_and_gradients(twin, in.to(at::kDouble));
    for (size_t i = 0; i < got.size(); ++i) {
      EXPECT_LE(rms_error(got[i], expected[i]), bound) << i << " " << type;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(DeltaPreviousReset, NormMixLinear, testing::Range(0, 8));

/// Central differences of sum(out c) by every element of every leaf.
void expect_matches_differences(const std::function<Tensors(const Tensors&)>& f, Tensors leaves) {
  for (at::Tensor& leaf : leaves) leaf = leaf.detach().to(test_device()).clone().requires_grad_();
  at::Generator generator = at::detail::createCPUGenerator(4);
  Tensors weights;
  const auto loss_of = [&](const Tensors& in) {
    const Tensors out = f(in);
    at::Tensor loss = at::zeros({}, out[0].options());
    for (size_t i = 0; i < out.size(); ++i) {
      if (weights.size() <= i) {
        weights.push_back(at::randn(out[i].sizes(), generator, at::kDouble).to(out[i].device()));
      }
      loss = loss + (out[i] * weights[i]).sum();
    }
    return loss;
  };
  const Tensors gradients = torch::autograd::grad({loss_of(leaves)}, leaves);
  const torch::NoGradGuard no_grad;
  constexpr double kStep = 1e-5;
  for (size_t i = 0; i < leaves.size(); ++i) {
    for (int64_t j = 0; j < leaves[i].numel(); ++j) {
      const auto at_step = [&](double step) {
        Tensors moved = leaves;
        moved[i] = leaves[i].clone();
        moved[i].view({-1})[j] += step;
        return loss_of(moved).item<double>();
      };
      const double difference = (at_step(kStep) - at_step(-kStep)) / (2 * kStep);
      ASSERT_NEAR(gradients[i].reshape({-1})[j].item<double>(), difference, 2e-7)
          << "leaf " << i << " element " << j;
    }
  }
}

TEST(NormMixLinearGradient, MatchesFiniteDifferences) {
  at::manual_seed(6);
  const Case all = random_case(2, 4, 5, 3, kDelta | kPrevious | kReset);
  const at::Tensor reset = all.reset.to(test_device());
  expect_matches_differences(
      [&](const Tensors& t) {
        return run(
            Case{t[0], t[3], t[1], t[2], t[4], reset, {t[5], t[6], t[7]}, {t[8], t[9], t[10]}});
      },
      all.leaves());
}

TEST(NormMixLinear, PiecesOfASequenceJoinedByTheLastRowEqualTheWhole) {
  at::manual_seed(7);
  const Case in = random_case(2, 100, 24, 2, kDelta).to(at::kFloat);
  const Tensors whole = run(in);
  at::Tensor previous;
  for (const auto& [begin, end] : {std::pair<int64_t, int64_t>{0, 1}, {1, 65}, {65, 100}}) {
    Case part = in;
    part.x = in.x.slice(1, begin, end);
    part.delta = in.delta.slice(1, begin, end);
    part.previous = previous;
    const Tensors out = run(part);
    for (const size_t i : {0, 2, 3}) {
      EXPECT_LE(rms_error(out[i], whole[i].slice(1, begin, end)), 1e-6) << i << " " << begin;
    }
    previous = out[1];
  }
}

TEST(NormMixLinear, DoesNotDependOnTheNumberOfThreads) {
  at::manual_seed(8);
  const Case in = random_case(3, 200, 40, 3, kDelta | kReset).to(at::kFloat);
  const int threads = at::get_num_threads();
  const auto with = [&](int n) {
    at::set_num_threads(n);
    const OptionalTensor none;
    const auto forward =
        call_norm_shift_mix({in.x, in.delta, in.weight, in.bias, none, in.reset, in.mix}, 1e-5);
    const auto backward = call_norm_shift_mix_backward(
        {std::get<0>(forward), none, in.weight, in.bias, none, in.reset, in.mix},
        std::get<1>(forward), std::get<2>(forward), std::get<4>(forward), none, none);
    Tensors all{std::get<0>(backward), std::get<1>(backward), std::get<2>(backward)};
    for (const at::Tensor& g : std::get<4>(backward)) all.push_back(g);
    for (const at::Tensor& m : std::get<4>(forward)) all.push_back(m);
    return all;
  };
  const torch::NoGradGuard no_grad;
  const Tensors one = with(1), three = with(3);
  at::set_num_threads(threads);
  for (size_t i = 0; i < one.size(); ++i) EXPECT_TRUE(at::equal(one[i], three[i])) << i;
}

TEST(NormMixLinear, TheComposedFormAgreesWithTheKernels) {
  for (const auto type : {at::kDouble, at::kFloat}) {
    at::manual_seed(9);
    const Case in = random_case(2, 70, 20, 3, kDelta | kPrevious | kReset).to(type);
    const double bound = type == at::kDouble ? 1e-12 : 3e-6;
    const torch::NoGradGuard no_grad;
    const OptionalTensor none, delta = in.delta, previous = in.previous, reset = in.reset;
    const auto fast =
        call_norm_shift_mix({in.x, delta, in.weight, in.bias, previous, reset, in.mix}, 1e-5);
    const auto slow =
        norm_shift_mix_composed(in.x, delta, in.weight, in.bias, 1e-5, previous, reset, in.mix);
    EXPECT_LE(rms_error(std::get<0>(fast), std::get<0>(slow)), bound);
    EXPECT_LE(rms_error(std::get<1>(fast), std::get<1>(slow)), bound);
    EXPECT_LE(rms_error(std::get<2>(fast), std::get<2>(slow)), bound);
    EXPECT_LE(rms_error(std::get<3>(fast), std::get<3>(slow)), bound);
    const Tensors g{random(in.x.sizes()).to(in.x), random(in.x.sizes()).to(in.x),
                    random(in.x.sizes()).to(in.x)};
    const OptionalTensor g_last = random(in.previous.sizes()).to(in.x);
    const auto fast_back = call_norm_shift_mix_backward(
        {std::get<0>(fast), none, in.weight, in.bias, previous, reset, in.mix}, std::get<1>(fast),
        std::get<2>(fast), g, g[0], g_last);
    const auto slow_back = norm_shift_mix_backward_composed(
        std::get<0>(slow), std::get<1>(slow), std::get<2>(slow), in.weight, in.bias, previous,
        reset, in.mix, g, g[0], g_last);
    EXPECT_LE(rms_error(std::get<0>(fast_back), std::get<0>(slow_back)), bound);
    EXPECT_LE(rms_error(std::get<1>(fast_back), std::get<1>(slow_back)), bound);
    EXPECT_LE(rms_error(std::get<2>(fast_back), std::get<2>(slow_back)), bound);
    EXPECT_LE(rms_error(std::get<3>(fast_back), std::get<3>(slow_back)), bound);
    for (size_t i = 0; i < 3; ++i) {
      EXPECT_LE(rms_error(std::get<4>(fast)[i], std::get<4>(slow)[i]), bound) << i;
      EXPECT_LE(rms_error(std::get<4>(fast_back)[i], std::get<4>(slow_back)[i]), bound) << i;
      EXPECT_LE(rms_error(std::get<5>(fast_back)[i], std::get<4>(slow)[i]), bound) << i;
    }
  }
}

TEST(NormMixLinear, ShapesOnTheMetaDeviceAreThoseOfTheCpu) {
  const auto meta = at::TensorOptions(at::kMeta).dtype(at::kBFloat16);
  const at::Tensor x = at::empty({2, 9, 8}, meta), row = at::empty({8}, meta);
  const Tensors mix{row, row};
  const OptionalTensor none;
  const auto out = call_norm_shift_mix({x, x, row, row, none, none, mix}, 1e-5);
  EXPECT_EQ(std::get<0>(out).sizes(), x.sizes());
  EXPECT_EQ(std::get<1>(out).sizes(), (std::vector<int64_t>{2, 9}));
  EXPECT_EQ(std::get<1>(out).scalar_type(), at::kFloat);
  EXPECT_EQ(std::get<3>(out).sizes(), (std::vector<int64_t>{2, 8}));
  EXPECT_EQ(std::get<4>(out).at(1).sizes(), x.sizes());
  EXPECT_EQ(call_relu_square(x).sizes(), x.sizes());
  EXPECT_EQ(call_gate_residual(x, x, x).scalar_type(), at::kBFloat16);
}

TEST(NormMixLinear, FrozenWeightsGetNoGradient) {
  at::manual_seed(10);
  Case in = random_case(1, 5, 6, 2, kNothing).to(at::kFloat);
  in.product[0] = in.product[0].detach();
  const Tensors out = run(in);
  (out[2].sum() + out[3].sum()).backward();
  EXPECT_FALSE(in.product[0].grad().defined());
  EXPECT_TRUE(in.product[1].grad().defined());
  EXPECT_TRUE(in.x.grad().defined());
}

std::string error_of(const std::function<void()>& f) {
  try {
    f();
  } catch (const c10::Error& error) {
    return error.what_without_backtrace();
  }
  return "";
}

TEST(NormMixLinear, WrongInputsAreNamedWithBothValues) {
  Case in = random_case(2, 5, 6, 2, kPrevious);
  Case wrong = in;
  wrong.previous = random({2, 7});
  EXPECT_NE(error_of([&] { run(wrong); }).find("previous has shape [2, 7], expected [2, 6]"),
            std::string::npos);
  wrong = in;
  wrong.weight = random({5});
  EXPECT_NE(error_of([&] { run(wrong); }).find("weight has 5 elements, x has 6 channels"),
            std::string::npos);
  wrong = in;
  wrong.product[1] = random({6, 5});
  EXPECT_NE(error_of([&] { run(wrong); }).find("the weight is [6, 5]"), std::string::npos);
  wrong = in;
  wrong.x = in.x.to(at::kFloat);
  EXPECT_NE(error_of([&] { run(wrong); }).find("is Double, but x is Float"), std::string::npos);
  wrong = in;
  wrong.reset = at::zeros({2, 4}, at::kBool);
  EXPECT_NE(error_of([&] { run(wrong); }).find("reset has shape [2, 4]"), std::string::npos);
}

TEST(ReluSquareLinear, MatchesTheTwinAndFiniteDifferences) {
  at::manual_seed(11);
  const auto f = [](const Tensors& t) { return Tensors{relu_square_linear(t[0], t[1])}; };
  expect_matches_differences(f, {random({2, 3, 8}), random({5, 8})});
  const std::pair<at::ScalarType, double> bounds[] = {
      {at::kDouble, 1e-12}, {at::kFloat, 1e-6}, {at::kBFloat16, 1e-2}, {at::kHalf, 2e-3}};
  for (const auto& [type, bound] : bounds) {
    const at::Tensor k = random({3, 70, 61}).to(test_device(), type).requires_grad_();
    const at::Tensor w = random({9, 61}).to(test_device(), type).requires_grad_();
    const at::Tensor g = random({3, 70, 9}).to(test_device(), type);
    const Tensors got = torch::autograd::grad({relu_square_linear(k, w)}, {k, w}, {g});
    const at::Tensor kd = k.detach().to(at::kDouble).requires_grad_();
    const at::Tensor wd = w.detach().to(at::kDouble).requires_grad_();
    const at::Tensor out = kd.relu().square().matmul(wd.t());
    const Tensors expected = torch::autograd::grad({out}, {kd, wd}, {g.to(at::kDouble)});
    EXPECT_LE(rms_error(relu_square_linear(k, w), out), bound) << type;
    for (size_t i = 0; i < 2; ++i) EXPECT_LE(rms_error(got[i], expected[i]), bound) << type << i;
  }
}

TEST(GateResidual, MatchesTheTwinAndFiniteDifferencesAroundTheBlocks) {
  at::manual_seed(12);
  const auto f = [](const Tensors& t) { return Tensors{gate_residual(t[0], t[1], t[2])}; };
  expect_matches_differences(f, {random({2, 9}), random({2, 9}) * 3, random({2, 9})});
  const std::pair<at::ScalarType, double> bounds[] = {
      {at::kDouble, 1e-13}, {at::kFloat, 1e-6}, {at::kBFloat16, 1e-2}, {at::kHalf, 2e-3}};
  for (const auto& [type, bound] : bounds) {
    for (const int64_t n : {1, 15, 4096, 4097, 9000}) {
      Tensors in{random({n}), random({n}) * 4, random({n})};
      for (at::Tensor& t : in) t = t.to(test_device(), type).requires_grad_();
      Tensors wide;
      for (const at::Tensor& t : in) wide.push_back(t.detach().to(at::kDouble).requires_grad_());
      const at::Tensor g = random({n}).to(test_device(), type);
      const at::Tensor expected = wide[0] + wide[1].sigmoid() * wide[2];
      const at::Tensor got = f(in)[0];
      EXPECT_LE(rms_error(got, expected), bound) << type << " " << n;
      const Tensors gradients = torch::autograd::grad({got}, in, {g});
      const Tensors reference = torch::autograd::grad({expected}, wide, {g.to(at::kDouble)});
      for (size_t i = 0; i < 3; ++i) {
        EXPECT_LE(rms_error(gradients[i], reference[i]), bound) << type << " " << n << " " << i;
      }
    }
  }
}

TEST(GateResidual, ExtremeGatesAreExactAndNaNStaysVisible) {
  const float inf = std::numeric_limits<float>::infinity();
  const at::Tensor r = torch::tensor({-inf, -1e30F, -100.0F, 0.0F, 100.0F, 1e30F, inf});
  const at::Tensor one = at::ones({7}), zero = at::zeros({7});
  const at::Tensor out =
      gate_residual(zero.to(test_device()), r.to(test_device()), one.to(test_device())).cpu();
  EXPECT_TRUE(
      at::allclose(out, torch::tensor({0.0F, 0.0F, 0.0F, 0.5F, 1.0F, 1.0F, 1.0F}), 1e-6, 1e-30));
  const at::Tensor nan = at::full({20}, std::numeric_limits<float>::quiet_NaN());
  const at::Tensor z = at::zeros({20});
  EXPECT_TRUE(gate_residual(z, nan, at::ones({20})).isnan().all().item<bool>());
  EXPECT_TRUE(call_relu_square(nan).isnan().all().item<bool>());
}

TEST(Layers, SecondDerivativesAreRefused) {
  const at::Tensor k = random({2, 4}).requires_grad_(), w = random({3, 4}).requires_grad_();
  EXPECT_NE(error_of([&] {
              torch::autograd::grad({relu_square_linear(k, w).sum()}, {k}, {}, true, true);
            }).find("second derivatives are not implemented"),
            std::string::npos);
}

}  // namespace
}  // namespace rwkv::ops
