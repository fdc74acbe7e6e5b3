#include "model/inference/quantise.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <vector>

#include "model/inference/weight_matrix.h"

namespace rwkv::model {
namespace {

at::Tensor random(at::IntArrayRef shape, uint64_t seed) {
  return at::randn(shape, at::detail::createCPUGenerator(seed));
}

/// W x by the byte kernel, for one token.
at::Tensor product(WeightMatrix& matrix, const at::Tensor& x) {
  const at::Tensor y = at::empty({matrix.rows()});
  std::vector<ops::Matvec> batch;
  matrix.multiply(x.const_data_ptr<float>(), y.mutable_data_ptr<float>(), batch);
  ops::matvec(batch);
  return y;
}

double error_of(const ByteWeights& bytes, const at::Tensor& weight, const at::Tensor& samples) {
  const at::Tensor approximate = dequantise_seed(bytes, 0, weight.size(0));
  return at::mm(samples, (approximate - weight).t()).square().sum().item<double>();
}

class BothShapes : public ::testing::TestWithParam<std::pair<int64_t, int64_t>> {};
INSTANTIATE_TEST_SUITE_P(All, BothShapes,
                         ::testing::Values(std::pair{96, 32}, std::pair{32, 96}, std::pair{48, 48},
                                           std::pair{5, 333}));

TEST_P(BothShapes, BytesOfTheRwkvPackageAreWithinHalfAStep) {
  const auto [out, in] = GetParam();
  const at::Tensor weight = random({out, in}, 1);
  const ByteWeights bytes = quantise_i8(weight);
  const at::Tensor error = (dequantise_i8(bytes, 0, out) - weight).abs();
  // Half of a 256th of rx ry, which are stored divided by 16 each.
  const at::Tensor bound = bytes.row_scale.unsqueeze(1) * bytes.column_scale / 2;
  EXPECT_TRUE((error <= bound * 1.001 + 1e-6).all().item<bool>());
}

TEST_P(BothShapes, OneTokenAndManyMultiplyTheSameMatrix) {
  const auto [out, in] = GetParam();
  const at::Tensor weight = random({out, in}, 1), x = random({7, in}, 2);
  for (const WeightForm form : {WeightForm::kI8, WeightForm::kI8Seed}) {
    const ByteWeights bytes =
        form == WeightForm::kI8 ? quantise_i8(weight) : quantise_seed(weight, random({64, in}, 3));
    const at::Tensor wide =
        form == WeightForm::kI8 ? dequantise_i8(bytes, 0, out) : dequantise_seed(bytes, 0, out);
    const auto matrix = byte_matrix(bytes, form);
    at::Tensor rows = at::empty({7, out});
    matrix->multiply_rows(x, rows);
    const at::Tensor expected = at::mm(x, wide.t());
    const double scale = expected.abs().max().item<double>();
    EXPECT_LT((rows - expected).abs().max().item<double>(), 1e-5 * scale);
    EXPECT_LT((product(*matrix, x[3]) - expected[3]).abs().max().item<double>(), 2e-5 * scale);
  }
}

TEST(QuantiseI8, SurvivesConstantRowsAndColumns) {
  at::Tensor weight = random({20, 30}, 1);
  weight[3].fill_(0.5);
  weight.select(1, 7).fill_(-2);
  for (const at::Tensor& w : {weight, at::full({4, 4}, 3.0), at::zeros({4, 4})}) {
    const ByteWeights bytes = quantise_i8(w);
    const at::Tensor back = dequantise_i8(bytes, 0, w.size(0));
    EXPECT_TRUE(at::isfinite(back).all().item<bool>());
    EXPECT_LT((back - w).abs().max().item<double>(), 0.02);
  }
}

// M_ij = b_i Q_ij a_j with one row and one column of outliers and Q in -1..1.
TEST(QuantiseSeed, FlattensRowsAndColumnsOfOutliersExactly) {
  const at::Tensor q = at::tensor({1.F, -1.F, 1.F, 1.F, -1.F, 1.F, 1.F, -1.F, 1.F, 1.F, -1.F, 1.F,
                                   -1.F, 1.F, 1.F, 1.F})
                           .view({4, 4});
  const at::Tensor a = at::tensor({1.F, 100.F, 2.F, 0.5F}), b = at::tensor({3.F, 1.F, 50.F, 1.F});
  const at::Tensor weight = b.unsqueeze(1) * q * a;
  const ByteWeights bytes = quantise_seed(weight);
  EXPECT_TRUE(((bytes.q.to(at::kFloat) - 128) / 127).equal(q));
  EXPECT_TRUE(dequantise_seed(bytes, 0, 4).allclose(weight, 1e-6, 0));
}

TEST(QuantiseSeed, SamplesNeverMakeItWorse) {
  for (const uint64_t seed : {1, 2, 3, 4}) {
    at::Tensor weight = random({40, 64}, seed);
    weight[5] *= 30;
    at::Tensor samples = random({128, 64}, seed + 10);
    samples.select(1, 9) *= 40;          // an input that is large
    if (seed % 2 == 0) samples.relu_();  // inputs of one sign, as those of ffn.value
    const double plain = error_of(quantise_seed(weight), weight, samples);
    const double fitted = error_of(quantise_seed(weight, samples), weight, samples);
    EXPECT_LE(fitted, plain * 1.0001);
    EXPECT_LT(fitted, plain * 0.9) << "the samples were of no use";
  }
}

// y = (Q (v * a + aa)) * b + bb with bb = -b * (Q aa) is the same for every aa.
TEST(QuantiseSeed, TheShiftChangesNothingButRounding) {
  const at::Tensor weight = random({24, 40}, 1), samples = random({50, 40}, 2).relu();
  const ByteWeights shifted = quantise_seed(weight, samples);
  EXPECT_GT(shifted.column_shift.abs().max().item<double>(), 0.1);
  ByteWeights plain = shifted;
  plain.column_shift = at::zeros({40});
  plain.row_shift = at::zeros({24});
  const auto with = byte_matrix(shifted, WeightForm::kI8Seed);
  const auto without = byte_matrix(plain, WeightForm::kI8Seed);
  const at::Tensor x = samples[7].contiguous();
  EXPECT_TRUE(product(*with, x).allclose(product(*without, x), 1e-4, 1e-4));
  // The middle of the samples' range becomes 0.
  const at::Tensor z = samples * shifted.column_scale + shifted.column_shift;
  EXPECT_TRUE(z.amax(0).allclose(-z.amin(0), 1e-4, 1e-6));
}

}  // namespace
}  // namespace rwkv::model
