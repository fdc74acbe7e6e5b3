#include "trainer/optimizer.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>

#include "trainer/loss.h"
#include "trainer/loss_scaler.h"

namespace rwkv::trainer {
namespace {

at::Tensor leaf(const at::Tensor& values, at::ScalarType dtype) {
  return values.to(dtype).clone().set_requires_grad(true);
}

void set_gradient(const OptimizedParameter& parameter, const at::Tensor& gradient) {
  parameter.value.mutable_grad() = gradient.to(parameter.value.scalar_type());
}

TEST(Adam, MastersLearnWhatSixteenBitsCannotHold) {
  Adam adam({{"w", leaf(at::ones({3}), at::kBFloat16)}}, {});
  const OptimizedParameter& w = adam.parameters().front();
  for (int i = 0; i < 10; ++i) {  // each update is 1e-4: far below bfloat16's step of 2^-8 at 1
    set_gradient(w, at::full({3}, 0.5));
    adam.step({.lr = 1e-4}, adam.gradient_norm());
  }
  EXPECT_EQ(w.master.scalar_type(), at::kFloat);
  EXPECT_NEAR(w.master[0].item<double>(), 1 - 10 * 1e-4, 1e-6);
  EXPECT_TRUE(at::equal(w.value, w.master.to(at::kBFloat16)));
  EXPECT_EQ(w.value[0].item<double>(), 1.0);
}

TEST(Adam, SixteenBitGradientsGiveTheUpdateOfTheirFloat32Values) {
  const at::Tensor start = at::randn({7, 5});
  const at::Tensor gradient = at::randn({7, 5}).to(at::kBFloat16);
  Adam wide({{"w", leaf(start, at::kFloat)}}, {});
  Adam narrow({{.name = "w", .value = leaf(start, at::kBFloat16), .master = start.clone()}}, {});
  for (Adam* adam : {&wide, &narrow}) {
    set_gradient(adam->parameters().front(), gradient);
    adam->step({.lr = 1e-2}, adam->gradient_norm());
  }
  EXPECT_TRUE(at::equal(wide.parameters().front().master.detach(),
                        narrow.parameters().front().master.detach()));
}

TEST(Adam, AccumulatesSixteenBitGradientsInFloat32) {
  Adam adam({{"w", leaf(at::zeros({2}), at::kBFloat16)}}, {});
  const OptimizedParameter& w = adam.parameters().front();
  set_gradient(w, at::full({2}, 256.0));
  adam.accumulate_gradients();
  for (int i = 0; i < 64; ++i) {  // in bfloat16 256 + 0.5 is 256
    set_gradient(w, at::full({2}, 0.5));
    adam.accumulate_gradients();
  }
  EXPECT_FALSE(w.value.grad().defined());
  EXPECT_NEAR(adam.gradient_norm(), 288 * std::sqrt(2.0), 1e-9);
  adam.zero_grad();
  EXPECT_EQ(adam.gradient_norm(), 0);
}

TEST(Adam, DividesByTheLossScaleBeforeItClips) {
  const at::Tensor start = at::randn({6});
  const at::Tensor gradient = at::randn({6});
  Adam plain({{"w", leaf(start, at::kFloat)}}, {});
  Adam scaled({{"w", leaf(start, at::kFloat)}}, {});
  for (int i = 0; i < 3; ++i) {
    set_gradient(plain.parameters().front(), gradient);
    set_gradient(scaled.parameters().front(), gradient * 1024);
    plain.step({.lr = 1e-2}, plain.gradient_norm());
    scaled.step({.lr = 1e-2}, scaled.gradient_norm() / 1024, 1024);
  }
  const at::Tensor difference =
      plain.parameters().front().value - scaled.parameters().front().value;
  EXPECT_LT(difference.abs().max().item<float>(), 1e-7F);
}

TEST(Adam, RefusesAMasterOfAnotherShapeOrType) {
  const at::Tensor value = leaf(at::zeros({3}), at::kBFloat16);
  EXPECT_THROW(Adam({{.name = "w", .value = value, .master = at::zeros({4})}}, {}), c10::Error);
  EXPECT_THROW(Adam({{.name = "w", .value = value, .master = at::zeros({3}, at::kDouble)}}, {}),
               c10::Error);
}

TEST(LossScaler, HalvesOnTheSecondOverflowAndDoublesAfterAWindow) {
  LossScaler scaler{.scale = 1024, .enabled = true};
  scaler.update(true);
  EXPECT_EQ(scaler.scale, 1024);
  scaler.update(true);
  EXPECT_EQ(scaler.scale, 512);
  scaler.update(true);  // no patience is left
  EXPECT_EQ(scaler.scale, 256);
  for (int i = 0; i < LossScaler::kWindow; ++i) {
    EXPECT_EQ(scaler.scale, 256);
    scaler.update(false);
  }
  EXPECT_EQ(scaler.scale, 512);
  scaler.update(true);  // patience is back
  EXPECT_EQ(scaler.scale, 512);
}

TEST(LossScaler, StopsAtOneAndRestsWhenOff) {
  LossScaler scaler{.scale = 2, .enabled = true};
  for (int i = 0; i < 9; ++i) scaler.update(true);
  EXPECT_EQ(scaler.scale, 1);
  EXPECT_TRUE(scaler.at_floor());
  LossScaler off;
  off.update(true);
  for (int i = 0; i < 2000; ++i) off.update(false);
  EXPECT_EQ(off.scale, 1);
}

TEST(Loss, SixteenBitLogitsAreSummedInFloat32) {
  for (const auto dtype : {at::kBFloat16, at::kHalf}) {
    const at::Tensor narrow = (3 * at::randn({4, 6, 50})).to(dtype).set_requires_grad(true);
    const at::Tensor wide = narrow.detach().to(at::kFloat).set_requires_grad(true);
    const at::Tensor targets = at::randint(0, 50, {4, 6}, at::kLong);
    const at::Tensor a = cross_entropy(narrow, targets, {});
    const at::Tensor b = cross_entropy(wide, targets, {});
    EXPECT_EQ(a.scalar_type(), at::kFloat);
    EXPECT_EQ(a.item<float>(), b.item<float>());
    a.backward();
    b.backward();
    EXPECT_EQ(narrow.grad().scalar_type(), dtype);
    EXPECT_TRUE(at::equal(narrow.grad(), wide.grad().to(dtype)));
  }
}

}  // namespace
}  // namespace rwkv::trainer
