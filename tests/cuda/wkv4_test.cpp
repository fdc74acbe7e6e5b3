// Values of the WKV-4 operator: against the slow twin, at extremes, and its properties.
#include <gtest/gtest.h>

#include <cmath>

#include "cuda/wkv4_step.h"
#include "tests/cuda/wkv4_twin.h"

namespace rwkv::ops {
namespace {

constexpr int64_t S = kWkvTileTokens;

const char* const kGradientNames[] = {"time_decay", "time_first", "k", "v", "a", "b", "p"};

/// Values and gradients of `in` in its own type against the twin in float64; the bound grows with
/// the keys, because a key of magnitude K loses K 2^-24 in every exponent.
void expect_matches_twin(const Wkv4Case& in, double bound_at_one) {
  const double bound =
      bound_at_one * std::max(1.0, in.k.abs().max().to(at::kDouble).item<double>());
  const Wkv4Result out = run(in);
  const Wkv4Result twin = slow_twin(in);
  EXPECT_TRUE(out.y.isfinite().all().item<bool>());
  EXPECT_LE(rms_error(out.y, twin.y), bound);
  // The state's mean may cancel to almost nothing; values are of size 1, so compare absolutely.
  EXPECT_LE((out.a / out.b - twin.a / twin.b).square().mean().sqrt().item<double>(), bound);
  const at::Tensor log_b = out.p + out.b.log();
  EXPECT_LE(max_error(log_b, twin.p + twin.b.log()), bound);
  const at::Tensor gy = at::randn(in.k.sizes()).to(in.k.scalar_type());
  const auto got = gradients(run, in, gy);
  const auto expected = gradients(slow_twin, in.to(at::kDouble), gy);
  for (size_t i = 0; i < got.size() && i != 6; ++i) {
    EXPECT_TRUE(got[i].isfinite().all().item<bool>()) << kGradientNames[i];
    EXPECT_LE(rms_error(got[i], expected[i]), bound) << kGradientNames[i];
  }
}

TEST(Wkv4, FirstTokenIsItsValue) {
  at::manual_seed(1);
  const Wkv4Case in = random_case(2, 3, 17);
  EXPECT_TRUE(at::equal(run(in).y.select(1, 0), in.v.select(1, 0)));
}

TEST(Wkv4, MatchesSlowTwinInFloat) {
  at::manual_seed(2);
  expect_matches_twin(random_case(2, 3 * S + 5, 19), 1e-6);
}

TEST(Wkv4, MatchesSlowTwinInDouble) {
  at::manual_seed(3);
  expect_matches_twin(random_case(2, 2 * S + 5, 5, at::kDouble), 1e-13);
}

TEST(Wkv4, MatchesSlowTwinWithGivenState) {
  at::manual_seed(4);
  Wkv4Case in = random_case(3, S + 7, 21);
  in.state = random_state(3, 21);
  expect_matches_twin(in, 1e-6);
}

/// 16-bit storage loses half of its last digit at most, on the way out alone: the twin has the
/// rounded inputs too.
void expect_16_bit_storage_matches_twin(at::ScalarType type, double bound) {
  at::manual_seed(5);
  Wkv4Case in = random_case(2, 2 * S + 3, 70);
  in.k = in.k.to(type);
  in.v = in.v.to(type);
  const Wkv4Result out = run(in);
  EXPECT_EQ(out.y.scalar_type(), type);
  EXPECT_EQ(out.a.scalar_type(), at::kFloat);
  EXPECT_LE(rms_error(out.y, slow_twin(in).y), bound);
  const at::Tensor gy = at::randn(in.k.sizes()).to(type);
  const auto got = gradients(run, in, gy);
  const auto expected = gradients(slow_twin, in.to(at::kDouble), gy);
  for (size_t i = 0; i < got.size(); ++i) {
    EXPECT_LE(rms_error(got[i], expected[i]), bound) << kGradientNames[i];
  }
  EXPECT_EQ(got[0].scalar_type(), at::kFloat);
  EXPECT_EQ(got[2].scalar_type(), type);
  // Parameters in 16 bits are taken too.
  in.time_decay = in.time_decay.to(type);
  in.time_first = in.time_first.to(type);
  EXPECT_LE(rms_error(run(in).y, slow_twin(in).y), bound);
  EXPECT_EQ(gradients(run, in, gy)[0].scalar_type(), type);
}

TEST(Wkv4, Bfloat16StorageMatchesTwinOfRoundedInputs) {
  expect_16_bit_storage_matches_twin(at::kBFloat16, 4e-3);
}

TEST(Wkv4, Float16StorageMatchesTwinOfRoundedInputs) {
  expect_16_bit_storage_matches_twin(at::kHalf, 5e-4);
}

/// Keys of one difficult kind each.
struct Extreme {
  const char* name;
  std::function<void(Wkv4Case&)> apply;
};

void PrintTo(const Extreme& extreme, std::ostream* out) { *out << extreme.name; }

class Wkv4Extremes : public testing::TestWithParam<Extreme> {};

TEST_P(Wkv4Extremes, StayFiniteAndMatchTwin) {
  at::manual_seed(6);
  Wkv4Case in = random_case(1, 150, 16);
  GetParam().apply(in);
  expect_matches_twin(in, 1e-6);
}

void add_spikes(Wkv4Case& in, float height) {
  at::Tensor flat = in.k.view({-1});
  for (int64_t i = 0; i < flat.numel(); i += 37) flat[i] += i % 2 == 0 ? height : -height;
}

void alternate_blocks(Wkv4Case& in, float height) {
  for (int64_t t = 0; t < in.k.size(1); ++t)
    in.k.select(1, t) += t / 24 % 2 == 0 ? height : -height;
}

INSTANTIATE_TEST_SUITE_P(
    Keys, Wkv4Extremes,
    testing::Values(Extreme{"Thousand",
                            [](Wkv4Case& in) { in.k = at::rand_like(in.k) * 2000 - 1000; }},
                    Extreme{"Spikes40", [](Wkv4Case& in) { add_spikes(in, 40); }},
                    Extreme{"Spikes200", [](Wkv4Case& in) { add_spikes(in, 200); }},
                    Extreme{"Blocks100", [](Wkv4Case& in) { alternate_blocks(in, 100); }},
                    Extreme{"Blocks300", [](Wkv4Case& in) { alternate_blocks(in, 300); }},
                    Extreme{"Constant", [](Wkv4Case& in) { in.k.fill_(0.7F); }},
                    Extreme{"BonusUp", [](Wkv4Case& in) { in.time_first.fill_(5); }},
                    Extreme{"BonusDown", [](Wkv4Case& in) { in.time_first.fill_(-50); }},
                    Extreme{"SlowDecay", [](Wkv4Case& in) { in.time_decay.fill_(-10); }}),
    [](const auto& extreme) { return std::string(extreme.param.name); });

TEST(Wkv4, FastestDecayAndLargestBonusAreFiniteAndRight) {
  at::manual_seed(7);
  Wkv4Case in = random_case(1, 70, 16);
  in.time_decay.fill_(10);  // w = -22026: only the previous and the current token count
  EXPECT_LE(rms_error(run(in).y, slow_twin(in).y), 1e-6);
  in.time_first.fill_(50);  // y is v to 1e-20
  EXPECT_LE(rms_error(run(in).y, in.v), 1e-6);
  for (const auto& gradient : gradients(run, in, at::randn(in.k.sizes()))) {
    EXPECT_TRUE(gradient.isfinite().all().item<bool>());
  }
}

TEST(Wkv4, DecayBeyondFloatRangeIsFinite) {
  at::manual_seed(8);
  Wkv4Case in = random_case(1, 40, 4);
  in.time_decay.fill_(200);
  EXPECT_LE(rms_error(run(in).y, slow_twin(in).y), 1e-6);
  for (const auto& gradient : gradients(run, in, at::randn(in.k.sizes()))) {
    EXPECT_TRUE(gradient.isfinite().all().item<bool>());
  }
}

TEST(Wkv4, NotANumberStaysVisible) {
  at::manual_seed(9);
  Wkv4Case in = random_case(1, 5, 20);
  in.k[0][2][3] = std::nanf("");
  in.v[0][1][11] = std::nanf("");
  const at::Tensor y = run(in).y;
  EXPECT_TRUE(y.select(2, 3).slice(1, 2).isnan().all().item<bool>());
  EXPECT_TRUE(y.select(2, 11).slice(1, 1).isnan().all().item<bool>());
  EXPECT_EQ(y.isnan().sum().item<int64_t>(), 3 + 4);
}

TEST(Wkv4, OutputIsAWeightedMeanOfTheValuesSoFar) {
  at::manual_seed(10);
  const Wkv4Case in = random_case(2, 80, 33);
  const at::Tensor y = run(in).y;
  const at::Tensor highest = std::get<0>(in.v.cummax(1)), lowest = std::get<0>(in.v.cummin(1));
  EXPECT_TRUE((y <= highest + 1e-6).all().item<bool>());
  EXPECT_TRUE((y >= lowest - 1e-6).all().item<bool>());
}

TEST(Wkv4, KeyGradientsSumToZeroAndValueGradientsToThoseOfTheOutput) {
  at::manual_seed(11);
  const Wkv4Case in = random_case(2, 77, 9, at::kDouble);
  const at::Tensor gy = at::randn(in.k.sizes(), at::kDouble);
  const auto grad = gradients(run, in, gy);
  EXPECT_LE(grad[2].sum(1).abs().max().item<double>(), 1e-12);
  EXPECT_LE(max_error(grad[3].sum(1), gy.sum(1)), 1e-12);
}

TEST(Wkv4, OneTokenHasNoKeyGradientAndPassesTheValueGradient) {
  at::manual_seed(12);
  const Wkv4Case in = random_case(2, 1, 30);
  const at::Tensor gy = at::randn(in.k.sizes());
  const auto grad = gradients(run, in, gy);
  EXPECT_EQ(grad[0].abs().max().item<float>(), 0);
  EXPECT_EQ(grad[1].abs().max().item<float>(), 0);
  EXPECT_EQ(grad[2].abs().max().item<float>(), 0);
  EXPECT_TRUE(at::equal(grad[3], gy));
}

TEST(Wkv4, LaterTokensDoNotChangeEarlierOutputs) {
  at::manual_seed(13);
  Wkv4Case in = random_case(2, 70, 40);
  const at::Tensor before = run(in).y;
  for (const int64_t t : {S - 1, S, int64_t{50}}) {
    Wkv4Case changed = in;
    changed.k = in.k.clone();
    changed.v = in.v.clone();
    changed.k.slice(1, t) += 3;
    changed.v.slice(1, t) -= 2;
    EXPECT_TRUE(at::equal(run(changed).y.slice(1, 0, t), before.slice(1, 0, t))) << t;
  }
}

TEST(Wkv4, RowsAreIndependentBitForBit) {
  at::manual_seed(14);
  const Wkv4Case in = random_case(5, 45, 65);
  const at::Tensor gy = at::randn(in.k.sizes());
  const at::Tensor order = torch::tensor({3, 0, 4, 1, 2});
  Wkv4Case permuted = in;
  permuted.k = in.k.index_select(0, order);
  permuted.v = in.v.index_select(0, order);
  EXPECT_TRUE(at::equal(run(permuted).y, run(in).y.index_select(0, order)));
  const auto grad = gradients(run, in, gy);
  const auto permuted_grad = gradients(run, permuted, gy.index_select(0, order));
  EXPECT_TRUE(at::equal(permuted_grad[2], grad[2].index_select(0, order)));
  EXPECT_TRUE(at::equal(permuted_grad[3], grad[3].index_select(0, order)));
}

TEST(Wkv4, TwoRunsAreIdentical) {
  at::manual_seed(15);
  const Wkv4Case in = random_case(3, 100, 70);
  const at::Tensor gy = at::randn(in.k.sizes());
  EXPECT_TRUE(at::equal(run(in).y, run(in).y));
  const auto first = gradients(run, in, gy);
  const auto second = gradients(run, in, gy);
  for (size_t i = 0; i < first.size(); ++i) EXPECT_TRUE(at::equal(first[i], second[i]));
}

TEST(Wkv4, TrainingForwardEqualsPlainForward) {
  at::manual_seed(16);
  Wkv4Case in = random_case(2, 70, 33);
  const Wkv4Result plain = run(in);
  in.k.requires_grad_();
  const Wkv4Result training = run(in);
  EXPECT_TRUE(at::equal(plain.y, training.y));
  EXPECT_TRUE(at::equal(plain.p, training.p));
}

TEST(Wkv4, AnyWidthAndLengthMatchesTwin) {
  for (const int64_t C : {1, 3, 31, 64, 65, 768}) {
    for (const int64_t T : lengths_around_tiles()) {
      at::manual_seed(static_cast<uint64_t>(1000 * C + T));
      const int64_t width = std::min<int64_t>(C, 100);
      const Wkv4Case in = random_case(2, T, C);
      // Every channel of the operator, but the twin (T x T per channel) only for the last ones.
      const Wkv4Result out = run(in);
      Wkv4Case tail = in;
      tail.time_decay = in.time_decay.slice(0, C - width);
      tail.time_first = in.time_first.slice(0, C - width);
      tail.k = in.k.slice(2, C - width).contiguous();
      tail.v = in.v.slice(2, C - width).contiguous();
      EXPECT_LE(rms_error(out.y.slice(2, C - width), slow_twin(tail).y), 1e-6 * 5) << C << " " << T;
    }
  }
}

TEST(Wkv4, EmptyBatchAndEmptySequence) {
  const Wkv4Case no_rows = random_case(0, 5, 8);
  EXPECT_EQ(run(no_rows).y.sizes(), at::IntArrayRef({0, 5, 8}));
  const auto grad = gradients(run, no_rows, at::zeros({0, 5, 8}));
  EXPECT_EQ(grad[0].abs().max().item<float>(), 0);

  Wkv4Case no_tokens = random_case(2, 0, 8);
  no_tokens.state = random_state(2, 8);
  const Wkv4Result out = run(no_tokens);
  EXPECT_EQ(out.y.sizes(), at::IntArrayRef({2, 0, 8}));
  EXPECT_TRUE(at::equal(out.a, no_tokens.state.a));
  EXPECT_TRUE(at::equal(out.p, no_tokens.state.p));
  EXPECT_NE(out.a.data_ptr(), no_tokens.state.a.data_ptr());
}

TEST(Wkv4, StridedInputsAreCopiedNotMisread) {
  at::manual_seed(17);
  const Wkv4Case in = random_case(3, 40, 24);
  Wkv4Case strided = in;
  strided.k = in.k.permute({2, 0, 1}).contiguous().permute({1, 2, 0});
  strided.v = at::stack({in.v, in.v}, 3).select(3, 1);
  strided.time_decay = at::stack({in.time_decay, in.time_decay}, 1).select(1, 0);
  ASSERT_FALSE(strided.k.is_contiguous() || strided.v.is_contiguous());
  EXPECT_TRUE(at::equal(run(strided).y, run(in).y));
  const at::Tensor gy = at::randn({3, 24, 40}).transpose(1, 2);
  const auto grad = gradients(run, strided, gy);
  const auto expected = gradients(run, in, gy.contiguous());
  for (size_t i = 0; i < grad.size(); ++i) EXPECT_TRUE(at::equal(grad[i], expected[i])) << i;
}

TEST(Wkv4Step, CombiningStretchesEqualsRunningThrough) {
  at::manual_seed(18);
  const at::Tensor k = at::randn({20}, at::kDouble) * 3, v = at::randn({20}, at::kDouble);
  const double w = -0.3;
  const auto stretch = [&](int64_t begin, int64_t end) {
    auto sums = WkvSums<double>::empty();
    for (int64_t t = begin; t < end; ++t) {
      wkv_update<true>(sums, w, k[t].item<double>(), v[t].item<double>());
    }
    return sums;
  };
  const auto whole = stretch(0, 20);
  for (const int64_t cut : {0, 1, 7, 19, 20}) {
    const auto joined = wkv_combine(stretch(0, cut), stretch(cut, 20), double(20 - cut), w);
    const double scale = std::exp(joined.p - whole.p);
    EXPECT_NEAR(joined.a * scale, whole.a, 1e-13);
    EXPECT_NEAR(joined.b * scale, whole.b, 1e-13);
    EXPECT_NEAR(joined.da * scale, whole.da, 1e-12);
    EXPECT_NEAR(joined.db * scale, whole.db, 1e-12);
  }
}

}  // namespace
}  // namespace rwkv::ops
