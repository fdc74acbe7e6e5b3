#include "cuda/norm_shift_mix.h"

#include <ATen/ATen.h>
#include <torch/library.h>

#include "cuda/rows.h"

namespace rwkv::ops {

TORCH_LIBRARY_FRAGMENT(rwkv, m) {
  m.def(
      "norm_shift_mix(Tensor x, Tensor? delta, Tensor weight, Tensor bias, float eps, Tensor? "
      "previous, Tensor? reset, Tensor[] mix) -> (Tensor sum, Tensor mean, Tensor rstd, Tensor "
      "last, Tensor[] mixed)");
  m.def(
      "norm_shift_mix_backward(Tensor sum, Tensor mean, Tensor rstd, Tensor weight, Tensor bias, "
      "Tensor? previous, Tensor? reset, Tensor[] mix, Tensor[] g_mixed, Tensor? g_sum, Tensor? "
      "g_last) -> (Tensor x, Tensor weight, Tensor bias, Tensor previous, Tensor[] mix, Tensor[] "
      "mixed)");
}

namespace {

using In = const at::Tensor&;
using MaybeIn = const OptionalTensor&;

void check_like_x(const char* name, In tensor, In x, at::IntArrayRef sizes) {
  TORCH_CHECK(tensor.device() == x.device(), "norm_shift_mix: ", name, " is on ", tensor.device(),
              ", but x is on ", x.device());
  TORCH_CHECK(tensor.scalar_type() == x.scalar_type(), "norm_shift_mix: ", name, " is ",
              tensor.scalar_type(), ", but x is ", x.scalar_type());
  TORCH_CHECK(tensor.sizes() == sizes, "norm_shift_mix: ", name, " has shape ", tensor.sizes(),
              ", expected ", sizes);
}

void check_parameter(const char* name, In parameter, In x) {
  TORCH_CHECK(parameter.device() == x.device(), "norm_shift_mix: ", name, " is on ",
              parameter.device(), ", but x is on ", x.device());
  const bool float_beside_16_bits =
      at::isReducedFloatingType(x.scalar_type()) && parameter.scalar_type() == at::kFloat;
  TORCH_CHECK(float_beside_16_bits || parameter.scalar_type() == x.scalar_type(),
              "norm_shift_mix: ", name, " is ", parameter.scalar_type(), ", but x is ",
              x.scalar_type());
  TORCH_CHECK(parameter.numel() == x.size(2), "norm_shift_mix: ", name, " has ", parameter.numel(),
              " elements, x has ", x.size(2), " channels");
}

}  // namespace

void check_norm_shift_mix(const NormShiftMixArguments& in) {
  const at::Tensor& x = in.x;
  TORCH_CHECK(x.dim() == 3 && x.size(1) > 0,
              "norm_shift_mix: x must be (B, T, C) with T >= 1, got ", x.sizes());
  const auto type = x.scalar_type();
  TORCH_CHECK(
      type == at::kFloat || type == at::kBFloat16 || type == at::kHalf || type == at::kDouble,
      "norm_shift_mix: x is ", type, ", expected Float, BFloat16, Half or Double");
  if (in.delta.has_value()) check_like_x("delta", *in.delta, x, x.sizes());
  check_parameter("weight", in.weight, x);
  check_parameter("bias", in.bias, x);
  const auto mixes = static_cast<int64_t>(in.mix.size());
  TORCH_CHECK(mixes >= 1 && mixes <= kMaxMixes, "norm_shift_mix: ", mixes, " mixes, expected 1 to ",
              kMaxMixes);
  for (const at::Tensor& mix : in.mix) check_parameter("mix", mix, x);
  if (in.previous.has_value()) {
    check_like_x("previous", *in.previous, x, {x.size(0), x.size(2)});
  }
  if (in.reset.has_value()) {
    TORCH_CHECK(in.reset->scalar_type() == at::kBool, "norm_shift_mix: reset is ",
                in.reset->scalar_type(), ", expected Bool");
    TORCH_CHECK(in.reset->sizes() == x.sizes().slice(0, 2), "norm_shift_mix: reset has shape ",
                in.reset->sizes(), ", expected (B, T) = ", x.sizes().slice(0, 2));
    TORCH_CHECK(in.reset->device() == x.device(), "norm_shift_mix: reset is on ",
                in.reset->device(), ", but x is on ", x.device());
  }
}

void check_norm_shift_mix_backward(const NormShiftMixArguments& in, In mean, In rstd,
                                   at::TensorList g_mixed, MaybeIn g_sum, MaybeIn g_last) {
  check_norm_shift_mix(in);
  const at::Tensor& x = in.x;
  const auto math = x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  for (const at::Tensor& moment : {mean, rstd}) {
    TORCH_CHECK(moment.sizes() == x.sizes().slice(0, 2) && moment.scalar_type() == math &&
                    moment.device() == x.device(),
                "norm_shift_mix: mean and rstd must be (B, T) of type ", math, ", got ",
                moment.sizes(), " of ", moment.scalar_type());
  }
  TORCH_CHECK(g_mixed.size() == in.mix.size(), "norm_shift_mix: ", g_mixed.size(),
              " gradients for ", in.mix.size(), " mixes");
  for (const at::Tensor& g : g_mixed) check_like_x("gradient of a mix", g, x, x.sizes());
  if (g_sum.has_value()) check_like_x("gradient of the sum", *g_sum, x, x.sizes());
  if (g_last.has_value()) {
    check_like_x("gradient of the last row", *g_last, x, {x.size(0), x.size(2)});
  }
}

NormShiftMixTensors call_norm_shift_mix(const NormShiftMixArguments& in, double eps) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("rwkv::norm_shift_mix", "")
                             .typed<NormShiftMixTensors(In, MaybeIn, In, In, double, MaybeIn,
                                                        MaybeIn, at::TensorList)>();
  return op.call(in.x, in.delta, in.weight, in.bias, eps, in.previous, in.reset, in.mix);
}

NormShiftMixGradients call_norm_shift_mix_backward(const NormShiftMixArguments& in, In mean,
                                                   In rstd, at::TensorList g_mixed, MaybeIn g_sum,
                                                   MaybeIn g_last) {
  static const auto op =
      c10::Dispatcher::singleton()
          .findSchemaOrThrow("rwkv::norm_shift_mix_backward", "")
          .typed<NormShiftMixGradients(In, In, In, In, In, MaybeIn, MaybeIn, at::TensorList,
                                       at::TensorList, MaybeIn, MaybeIn)>();
  return op.call(in.x, mean, rstd, in.weight, in.bias, in.previous, in.reset, in.mix, g_mixed,
                 g_sum, g_last);
}

namespace {

at::Tensor as(at::ScalarType type, In tensor) { return tensor.to(type); }

struct Normed {
  at::Tensor hat, z, shifted;  // (B,T,C); hat = (x - mean) rstd
};

Normed normed_rows(const NormShiftMixArguments& in, In x, In mean, In rstd) {
  const auto math = mean.scalar_type();
  const int64_t T = x.size(1);
  Normed rows;
  rows.hat = (as(math, x) - mean.unsqueeze(2)) * rstd.unsqueeze(2);
  rows.z = rows.hat * as(math, in.weight) + as(math, in.bias);
  const at::Tensor first = in.previous.has_value()
                               ? as(math, *in.previous).unsqueeze(1)
                               : at::zeros({x.size(0), 1, x.size(2)}, rows.z.options());
  rows.shifted = at::cat({first, rows.z.slice(1, 0, T - 1)}, 1);
  if (in.reset.has_value()) rows.shifted = rows.shifted.masked_fill(in.reset->unsqueeze(2), 0);
  return rows;
}

std::vector<at::Tensor> mixed_rows(const NormShiftMixArguments& in, const Normed& rows) {
  std::vector<at::Tensor> mixed;
  for (const at::Tensor& mix : in.mix) {
    const at::Tensor m = as(rows.z.scalar_type(), mix).view({1, 1, -1});
    mixed.push_back(as(in.x.scalar_type(), rows.shifted + m * (rows.z - rows.shifted)));
  }
  return mixed;
}

}  // namespace

NormShiftMixTensors norm_shift_mix_composed(In x, MaybeIn delta, In weight, In bias, double eps,
                                            MaybeIn previous, MaybeIn reset, at::TensorList mix) {
  const NormShiftMixArguments in{x, delta, weight, bias, previous, reset, mix};
  check_norm_shift_mix(in);
  const auto math = x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const at::Tensor sum = delta.has_value() ? x + *delta : x;
  const at::Tensor wide = as(math, sum);
  const at::Tensor mean = wide.mean(2);
  const at::Tensor variance = (wide - mean.unsqueeze(2)).square().mean(2);
  const at::Tensor rstd = (variance + eps).rsqrt();
  const Normed rows = normed_rows(in, sum, mean, rstd);
  const at::Tensor last = as(x.scalar_type(), rows.z.select(1, x.size(1) - 1)).contiguous();
  return {delta.has_value() ? sum : at::empty({0}, x.options()), mean, rstd, last,
          mixed_rows(in, rows)};
}

NormShiftMixGradients norm_shift_mix_backward_composed(In sum, In mean, In rstd, In weight, In bias,
                                                       MaybeIn previous, MaybeIn reset,
                                                       at::TensorList mix, at::TensorList g_mixed,
                                                       MaybeIn g_sum, MaybeIn g_last) {
  const OptionalTensor none;
  const NormShiftMixArguments in{sum, none, weight, bias, previous, reset, mix};
  check_norm_shift_mix_backward(in, mean, rstd, g_mixed, g_sum, g_last);
  const auto math = mean.scalar_type();
  const auto type = sum.scalar_type();
  const int64_t T = sum.size(1);
  const Normed rows = normed_rows(in, sum, mean, rstd);
  at::Tensor gz = at::zeros_like(rows.z);
  at::Tensor g_shifted = at::zeros_like(rows.z);
  std::vector<at::Tensor> g_mix;
  for (size_t i = 0; i < mix.size(); ++i) {
    const at::Tensor g = as(math, g_mixed[i]);
    const at::Tensor m = as(math, mix[i]).view({1, 1, -1});
    gz += m * g;
    g_shifted += (1 - m) * g;
    g_mix.push_back((g * (rows.z - rows.shifted))
                        .sum(at::IntArrayRef{0, 1})
                        .view_as(mix[i])
                        .to(mix[i].scalar_type()));
  }
  if (reset.has_value()) g_shifted = g_shifted.masked_fill(reset->unsqueeze(2), 0);
  gz.slice(1, 0, T - 1) += g_shifted.slice(1, 1, T);
  if (g_last.has_value()) gz.select(1, T - 1) += as(math, *g_last);
  const at::Tensor g_hat = gz * as(math, weight);
  at::Tensor gx = (g_hat - g_hat.mean(2, true) - rows.hat * (g_hat * rows.hat).mean(2, true)) *
                  rstd.unsqueeze(2);
  if (g_sum.has_value()) gx += as(math, *g_sum);
  const at::Tensor g_previous =
      previous.has_value() ? as(type, g_shifted.select(1, 0)) : at::empty({0}, sum.options());
  return {as(type, gx),
          (gz * rows.hat).sum(at::IntArrayRef{0, 1}).view_as(weight).to(weight.scalar_type()),
          gz.sum(at::IntArrayRef{0, 1}).view_as(bias).to(bias.scalar_type()),
          g_previous,
          g_mix,
          mixed_rows(in, rows)};
}

namespace {

// Also the kernels of the meta device.
TORCH_LIBRARY_IMPL(rwkv, CompositeExplicitAutograd, m) {
  m.impl("norm_shift_mix", norm_shift_mix_composed);
  m.impl("norm_shift_mix_backward", norm_shift_mix_backward_composed);
}

}  // namespace
}  // namespace rwkv::ops
