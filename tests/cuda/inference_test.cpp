#include "cuda/inference.h"

#include <ATen/Parallel.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <vector>

#include "cuda/ops.h"

namespace rwkv::ops {
namespace {

/// Sets the number of threads for one scope.
class Threads {
 public:
  explicit Threads(int count) : before_(at::get_num_threads()) { at::set_num_threads(count); }
  ~Threads() { at::set_num_threads(before_); }

 private:
  int before_;
};

at::Tensor random(at::IntArrayRef shape, int seed) {
  return at::randn(shape, at::detail::createCPUGenerator(static_cast<uint64_t>(seed)));
}

const float* data(const at::Tensor& tensor) { return tensor.const_data_ptr<float>(); }
float* mutable_data(const at::Tensor& tensor) { return tensor.mutable_data_ptr<float>(); }

// Widths that fill vectors, that leave a rest, and that are smaller than one.
class InferenceWidths : public ::testing::TestWithParam<int64_t> {};
INSTANTIATE_TEST_SUITE_P(All, InferenceWidths, ::testing::Values(1, 7, 16, 31, 64, 96, 333, 768));

TEST_P(InferenceWidths, ProductsOfFloatsEqualTheSlowTwin) {
  const int64_t columns = GetParam(), rows = 37;
  const at::Tensor x = random({columns}, 1);
  const std::pair<WeightType, at::ScalarType> types[] = {{WeightType::kFp32, at::kFloat},
                                                         {WeightType::kBf16, at::kBFloat16},
                                                         {WeightType::kFp16, at::kHalf}};
  for (const auto& [type, stored] : types) {
    const at::Tensor weight = random({rows, columns}, 2).to(stored);
    const at::Tensor y = at::empty({rows});
    const Matvec product{type, weight.const_data_ptr(), rows, columns, data(x), mutable_data(y)};
    matvec(std::span(&product, 1));
    const at::Tensor wide = weight.to(at::kDouble);
    const at::Tensor expected = at::mv(wide, x.to(at::kDouble));
    const at::Tensor bound = at::mv(wide.abs(), x.to(at::kDouble).abs()) * 3e-7;
    EXPECT_TRUE(((y - expected).abs() <= bound + 1e-30).all().item<bool>())
        << c10::toString(stored) << ": " << (y - expected).abs().max();
  }
}

TEST_P(InferenceWidths, ProductsOfBytesAreExactSumsOfFixedPointNumbers) {
  const int64_t columns = GetParam(), rows = 19;
  const at::Tensor weight =
      at::randint(0, 256, {rows, columns}, at::detail::createCPUGenerator(3)).to(at::kByte);
  weight[0].fill_(255);  // the largest sums
  at::Tensor x = random({columns}, 4);
  x[0] = -20;  // an outlier
  FixedPoint fixed;
  fixed.assign(data(x), columns);
  const at::Tensor y = at::empty({rows});
  const at::Tensor scale = random({rows}, 5), shift = random({rows}, 6);
  Matvec product{WeightType::kByte, weight.const_data_ptr(), rows, columns,
                 nullptr,           mutable_data(y)};
  product.fixed = &fixed;
  product.row_scale = data(scale);
  product.row_shift = data(shift);
  constexpr double byte_shift = 0.5;
  product.byte_shift = byte_shift;
  product.shift_factor = 0.5F;
  product.bias = 2;
  matvec(std::span(&product, 1));
  // The slow twin.
  const at::Tensor exact_x = x.to(at::kDouble);
  const double step = 20.0 / (63 * (1 + 128 + 16384));
  EXPECT_NEAR(fixed.step(), step, 1e-6 * step);
  const at::Tensor X = ((exact_x / fixed.step() * 1024).round() / 1024 + 0.5).floor();
  EXPECT_EQ(static_cast<double>(fixed.sum()), X.sum().item<double>());
  const double sum_x = exact_x.sum().item<double>() / fixed.step();
  EXPECT_NEAR(fixed.exact(), sum_x, static_cast<double>(columns) / 1024);
  const at::Tensor sums = at::mv(weight.to(at::kDouble) - 128, X) + (128 + byte_shift) * sum_x;
  const at::Tensor expected = scale * (step * sums).to(at::kFloat) + (shift * 0.5 + 2.0);
  EXPECT_TRUE(((y - expected).abs() <= 1e-6 * (expected.abs() + 100)).all().item<bool>())
      << (y - expected).abs().max();
  const at::Tensor exact =
      scale * at::mv(weight.to(at::kDouble) + byte_shift, exact_x).to(at::kFloat) + shift * 0.5 +
      2.0;
  const double rounding = step / 2 * 128 * static_cast<double>(columns);
  EXPECT_TRUE(((y - exact).abs() <= scale.abs() * rounding + 1e-2).all().item<bool>());
}

TEST(InferenceProducts, GiveTheSameBitsOnAnyNumberOfThreads) {
  const int64_t columns = 768, rows = 3001;
  const at::Tensor x = random({columns}, 1), weight = random({rows, columns}, 2);
  const at::Tensor bytes = at::randint(0, 256, {rows, columns}).to(at::kByte);
  const at::Tensor ones = at::ones({rows});
  FixedPoint fixed;
  fixed.assign(data(x), columns);
  std::vector<at::Tensor> results;
  for (const int threads : {1, 2, 3}) {
    const Threads scope(threads);
    const at::Tensor y = at::empty({2, rows});
    Matvec products[] = {{WeightType::kFp32, data(weight), rows, columns, data(x), mutable_data(y)},
                         {WeightType::kByte, bytes.const_data_ptr(), rows, columns, nullptr,
                          mutable_data(y) + rows}};
    products[1].fixed = &fixed;
    products[1].row_scale = products[1].row_shift = data(ones);
    matvec(products);
    results.push_back(y);
  }
  EXPECT_TRUE(results[0].equal(results[1]));
  EXPECT_TRUE(results[0].equal(results[2]));
}

TEST(InferenceProducts, RefuseWhatTheyCannotCompute) {
  float value = 0;
  const Matvec empty{WeightType::kFp32, &value, 0, 1, &value, &value};
  EXPECT_THROW(matvec(std::span(&empty, 1)), c10::Error);
  const Matvec without_x{WeightType::kFp32, &value, 1, 1, nullptr, &value};
  EXPECT_THROW(matvec(std::span(&without_x, 1)), c10::Error);
  FixedPoint fixed;
  EXPECT_THROW(fixed.assign(&value, FixedPoint::kMaxColumns + 1), c10::Error);
  fixed.assign(&value, 1);
  Matvec bytes{WeightType::kByte, &value, 1, 2, nullptr, &value};
  bytes.fixed = &fixed;
  bytes.row_scale = bytes.row_shift = &value;
  EXPECT_THROW(matvec(std::span(&bytes, 1)), c10::Error);
}

TEST(FixedPointNumbers, ShowWhatIsNotFinite) {
  for (const float bad : {std::numeric_limits<float>::infinity(), std::nanf("")}) {
    const std::vector<float> x{1, bad, 2};
    FixedPoint fixed;
    fixed.assign(x.data(), 3);
    EXPECT_TRUE(std::isnan(fixed.step()));
  }
  const std::vector<float> zeros(5, 0.0F);
  FixedPoint fixed;
  fixed.assign(zeros.data(), 5);
  EXPECT_EQ(fixed.sum(), 0);
}

TEST_P(InferenceWidths, NormAndMixturesEqualLibTorchs) {
  const int64_t C = GetParam(), T = 9;
  const at::Tensor x = random({T, C}, 1) * 3 + 1, weight = random({C}, 2), bias = random({C}, 3);
  const at::Tensor mix = random({3, C}, 4), before = random({C}, 5);
  const at::Tensor z = at::layer_norm(x, {C}, weight, bias, 1e-5);
  const at::Tensor shifted = at::cat({before.unsqueeze(0), z.slice(0, 0, T - 1)});
  for (const int64_t tokens : {int64_t{1}, T}) {
    const at::Tensor last = before.clone(), out = at::empty({3, T, C});
    NormMix in{data(x), tokens, C, data(weight), data(bias), mutable_data(last), 3, {}, {}};
    for (size_t n = 0; n < 3; ++n) {
      in.mix[n] = data(mix) + static_cast<int64_t>(n) * C;
      in.out[n] = mutable_data(out) + static_cast<int64_t>(n) * T * C;
    }
    norm_mix(in);
    EXPECT_LT((last - z[tokens - 1]).abs().max().item<double>(), 2e-5);
    for (int64_t n = 0; n < 3; ++n) {
      const at::Tensor expected = (shifted + mix[n] * (z - shifted)).slice(0, 0, tokens);
      EXPECT_LT((out[n].slice(0, 0, tokens) - expected).abs().max().item<double>(), 1e-4);
    }
  }
  const at::Tensor alone = at::empty({T, C});
  layer_norm(data(x), data(weight), data(bias), mutable_data(alone), T, C);
  EXPECT_LT((alone - z).abs().max().item<double>(), 2e-5);
}

TEST_P(InferenceWidths, GatesEqualTheirFormulas) {
  const int64_t count = GetParam();
  const at::Tensor r = random({count}, 1) * 20, y = random({count}, 2), x = random({count}, 3);
  const at::Tensor gated = y.clone(), squared = y.clone(), sum = x.clone(), both = x.clone();
  gate(data(r), mutable_data(gated), count);
  relu_square(mutable_data(squared), count);
  add_scaled(mutable_data(sum), data(y), 0.25F, count);
  add_gated(mutable_data(both), data(r), data(y), 0.5F, count);
  EXPECT_TRUE(gated.allclose(y * r.sigmoid(), 1e-5, 1e-7));
  EXPECT_TRUE(squared.allclose(y.relu().square(), 1e-6, 1e-7));
  EXPECT_TRUE(sum.allclose(x + 0.25 * y, 1e-5, 1e-6));
  EXPECT_TRUE(both.allclose(x + 0.5 * r.sigmoid() * y, 1e-5, 1e-6));
  const at::Tensor z = at::empty({count}), shifted = at::empty({count});
  const InputSums sums = scale_and_sum(data(x), data(r), data(y), mutable_data(z), count);
  scale_and_shift(data(x), data(r), data(y), mutable_data(shifted), count);
  EXPECT_TRUE(z.allclose(x * r) && shifted.allclose(x * r + y, 1e-5, 1e-5));
  EXPECT_NEAR(sums.x, x.sum().item<double>(), 1e-3);
  EXPECT_NEAR(sums.x_shift, (x * y).sum().item<double>(), 1e-3);
  EXPECT_NEAR(read_all(data(x), count), x.sum().item<double>(), 1e-3);
}

TEST_P(InferenceWidths, WkvStepEqualsTheOperator) {
  const int64_t C = GetParam(), T = 12;
  const at::Tensor w = at::linspace(-5, 3, C), u = random({C}, 1);
  const at::Tensor k = random({1, T, C}, 2) * 4, v = random({1, T, C}, 3);
  const auto [expected, a_T, b_T, p_T] = wkv4(w, u, k, v);
  const at::Tensor decay = -w.exp(), a = at::zeros({C}), b = at::zeros({C}),
                   p = at::full({C}, -1e38), y = at::empty({T, C});
  for (int64_t t = 0; t < T; ++t) {
    wkv4_step({data(decay), data(u), data(k) + t * C, data(v) + t * C, mutable_data(a),
               mutable_data(b), mutable_data(p), mutable_data(y) + t * C, C});
  }
  EXPECT_TRUE(y.allclose(expected[0], 1e-5, 1e-6)) << (y - expected[0]).abs().max();
  EXPECT_TRUE((a / b).allclose((a_T / b_T)[0], 1e-5, 1e-6));
  EXPECT_TRUE((p + b.log()).allclose((p_T + b_T.log())[0], 1e-5, 1e-5));
}

}  // namespace
}  // namespace rwkv::ops
