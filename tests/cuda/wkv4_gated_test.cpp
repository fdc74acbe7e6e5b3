// WKV-4 with its gate and the product behind it, against the ungated operator.
#include <gtest/gtest.h>

#include "cuda/layers.h"
#include "cuda/wkv4_gated.h"
#include "tests/cuda/wkv4_twin.h"

namespace rwkv::ops {
namespace {

using Tensors = std::vector<at::Tensor>;

struct GatedCase {
  Wkv4Case wkv;
  at::Tensor r, weight;

  [[nodiscard]] Tensors leaves() const {
    Tensors all{wkv.time_decay, wkv.time_first, wkv.k, wkv.v, r, weight};
    if (wkv.state.a.defined()) all.insert(all.end(), {wkv.state.a, wkv.state.b});
    return all;
  }
  [[nodiscard]] GatedCase to(at::ScalarType type) const {
    const auto cast = [&](const at::Tensor& t) {
      return t.defined() ? t.detach().to(type).clone().requires_grad_() : t;
    };
    // The state is of the type of the arithmetic.
    const auto math = type == at::kDouble ? at::kDouble : at::kFloat;
    const auto state = [&](const at::Tensor& t) {
      return t.defined() ? t.detach().to(math).clone().requires_grad_() : t;
    };
    GatedCase copy{{cast(wkv.time_decay),
                    cast(wkv.time_first),
                    cast(wkv.k),
                    cast(wkv.v),
                    {state(wkv.state.a), state(wkv.state.b), state(wkv.state.p)},
                    wkv.reset},
                   cast(r),
                   cast(weight)};
    return copy;
  }
};

GatedCase gated_case(int64_t B, int64_t T, int64_t C, bool state, bool reset) {
  GatedCase in{random_case(B, T, C, at::kDouble), at::randn({B, T, C}, at::kDouble) * 2,
               at::randn({C + 1, C}, at::kDouble)};
  if (state) in.wkv.state = random_state(B, C, at::kDouble);
  if (reset) in.wkv.reset = at::rand({B, T}) < 0.1;
  return in;
}

/// out, A = a e^p, B = b e^p: those of gated_wkv_linear on the device of the test, on the CPU.
Tensors run_gated(const GatedCase& in) {
  const at::Device device = test_device();
  const auto there = [&](const at::Tensor& x) {
    return !x.defined() || device.is_cpu() ? x : x.to(device);
  };
  const auto result = gated_wkv_linear(
      there(in.wkv.time_decay), there(in.wkv.time_first), there(in.wkv.k), there(in.wkv.v),
      there(in.r), there(in.weight),
      {there(in.wkv.state.a), there(in.wkv.state.b), there(in.wkv.state.p)}, there(in.wkv.reset));
  const at::Tensor scale = result.state.p.detach().exp();
  return {result.out.cpu(), (result.state.a * scale).cpu(), (result.state.b * scale).cpu()};
}

Tensors twin_gated(const GatedCase& in) {
  const Wkv4Result wkv = slow_twin(in.wkv);
  const at::Tensor scale = wkv.p.detach().exp();
  return {(in.r.sigmoid() * wkv.y).matmul(in.weight.t()), wkv.a * scale, wkv.b * scale};
}

Tensors with_gradients(Tensors (*f)(const GatedCase&), const GatedCase& in) {
  Tensors out = f(in);
  at::Generator generator = at::detail::createCPUGenerator(2);
  at::Tensor loss = at::zeros({}, at::kDouble);
  for (const at::Tensor& o : out) {
    const at::Tensor c = at::randn(o.sizes(), generator, at::kDouble).to(o.scalar_type());
    loss = loss + (o.to(at::kDouble) * c.to(at::kDouble)).sum();
  }
  const Tensors gradients = torch::autograd::grad({loss}, in.leaves());
  out.insert(out.end(), gradients.begin(), gradients.end());
  return out;
}

class GatedWkv : public testing::TestWithParam<std::tuple<bool, bool>> {};

TEST_P(GatedWkv, EqualsTheTwinWithItsGradientsAroundTheTiles) {
  const auto [state, reset] = GetParam();
  for (const int64_t T : lengths_around_tiles()) {
    at::manual_seed(static_cast<uint64_t>(T));
    const GatedCase in = gated_case(2, T, 21, state, reset).to(at::kDouble);
    const Tensors got = with_gradients(run_gated, in), expected = with_gradients(twin_gated, in);
    for (size_t i = 0; i < got.size(); ++i) {
      EXPECT_LE(max_error(got[i], expected[i]), 1e-11) << i << " T " << T;
    }
  }
}

TEST_P(GatedWkv, MatchesTheTwinInStorageOf32And16Bits) {
  const auto [state, reset] = GetParam();
  const std::pair<at::ScalarType, double> bounds[] = {
      {at::kFloat, 1e-5}, {at::kBFloat16, 2e-2}, {at::kHalf, 3e-3}};
  for (const auto& [type, bound] : bounds) {
    at::manual_seed(4);
    const GatedCase in = gated_case(2, 75, 70, state, reset).to(type);
    const Tensors got = with_gradients(run_gated, in);
    const Tensors expected = with_gradients(twin_gated, in.to(at::kDouble));
    for (size_t i = 0; i < got.size(); ++i) {
      EXPECT_LE(rms_error(got[i], expected[i]), bound) << i << " " << type;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(StateReset, GatedWkv, testing::Combine(testing::Bool(), testing::Bool()));

TEST(GatedWkv, GradientsMatchFiniteDifferences) {
  at::manual_seed(5);
  const GatedCase in = gated_case(2, 5, 3, true, true).to(at::kDouble);
  const Tensors analytic = with_gradients(run_gated, in);
  const Tensors leaves = in.leaves();
  const torch::NoGradGuard no_grad;
  at::Generator generator = at::detail::createCPUGenerator(2);
  Tensors weights;
  for (size_t i = 0; i < 3; ++i) {
    weights.push_back(at::randn(analytic[i].sizes(), generator, at::kDouble));
  }
  const auto loss = [&] {
    const Tensors out = run_gated(in);
    double sum = 0;
    for (size_t i = 0; i < 3; ++i) sum += (out[i] * weights[i]).sum().item<double>();
    return sum;
  };
  constexpr double kStep = 1e-5;
  for (size_t i = 0; i < leaves.size(); ++i) {
    double* const x = leaves[i].data_ptr<double>();
    for (int64_t j = 0; j < leaves[i].numel(); ++j) {
      const double value = x[j];
      x[j] = value + kStep;
      const double above = loss();
      x[j] = value - kStep;
      const double below = loss();
      x[j] = value;
      ASSERT_NEAR(analytic[3 + i].reshape({-1})[j].item<double>(), (above - below) / (2 * kStep),
                  2e-6)
          << "leaf " << i << " element " << j;
    }
  }
}

TEST(GatedWkv, TheBackwardReturnsTheGatedOutputAndAnOpenGateIsTheUngatedOperator) {
  at::manual_seed(6);
  const Wkv4Case in = random_case(2, 40, 33);
  const at::Tensor r = at::full_like(in.k, 200.0F);
  const OptionalTensor none;
  const torch::NoGradGuard no_grad;
  const auto train =
      call_wkv4_gated_train(in.time_decay, in.time_first, in.k, in.v, r, none, none, none, none);
  EXPECT_TRUE(
      at::equal(std::get<0>(train), std::get<0>(wkv4(in.time_decay, in.time_first, in.k, in.v))));
  const at::Tensor half = at::randn_like(in.k);
  const auto gated =
      call_wkv4_gated_train(in.time_decay, in.time_first, in.k, in.v, half, none, none, none, none);
  const auto back = call_wkv4_gated_backward(in.time_decay, in.time_first, in.k, in.v, half, none,
                                             std::get<4>(gated), at::randn_like(in.k), none, none);
  EXPECT_LE(max_error(std::get<8>(back), std::get<0>(gated)), 1e-6);
}

TEST(GatedWkv, WrongGatesAreNamedWithBothValues) {
  const GatedCase in = gated_case(2, 5, 6, false, false);
  const auto error_of = [&](const at::Tensor& r) -> std::string {
    try {
      gated_wkv_linear(in.wkv.time_decay, in.wkv.time_first, in.wkv.k, in.wkv.v, r, in.weight);
    } catch (const c10::Error& error) {
      return error.what_without_backtrace();
    }
    return "";
  };
  EXPECT_NE(error_of(at::zeros({2, 5, 7}, at::kDouble)).find("r has shape [2, 5, 7]"),
            std::string::npos);
  EXPECT_NE(error_of(at::zeros({2, 5, 6})).find("r is Float, expected Double"), std::string::npos);
}

}  // namespace
}  // namespace rwkv::ops
