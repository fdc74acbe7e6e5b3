#pragma once

#include <ATen/ATen.h>
#include <c10/core/DeviceGuard.h>

#include <tuple>

#include "cuda/cross_entropy.h"
#include "cuda/elementwise.h"
#include "cuda/norm_shift_mix.h"
#include "cuda/rows_block.h"
#include "cuda/wkv4.h"

// The operators on rows for kernels made of rows_block.h: checks, outputs, pointers. A `Launch`
// runs the bodies: on a GPU in rows_cuda.cpp, on the host in the tests. It has
//   void run(const Rows& args) const;   for each Rows of rows_block.h
//   void run_relu_square(const ElementwiseRows<S>& args) const;  and run_gate_residual

namespace rwkv::ops {

/// Contiguous parameters in the type of the arithmetic, kept alive for one run.
struct RowParameters {
  at::Tensor weight, bias;
  std::vector<at::Tensor> mix;

  RowParameters(const NormShiftMixArguments& in, at::ScalarType math)
      : weight(in.weight.to(math).contiguous()), bias(in.bias.to(math).contiguous()) {
    for (const at::Tensor& m : in.mix) mix.push_back(m.to(math).contiguous());
  }

  template <typename Args>
  void fill(Args& args) const {
    using M = typename Args::M;
    args.mixes = static_cast<int64_t>(mix.size());
    args.weight = weight.const_data_ptr<M>();
    args.bias = bias.const_data_ptr<M>();
    for (size_t i = 0; i < mix.size(); ++i) args.mix[i] = mix[i].const_data_ptr<M>();
  }
};

/// A contiguous tensor that is given or not, kept alive for one run.
class RowInput {
 public:
  explicit RowInput(const OptionalTensor& given)
      : rows_(given.has_value() ? given->contiguous() : at::Tensor()) {}

  template <typename S>
  [[nodiscard]] const S* data() const {
    return rows_.defined() ? rows_.const_data_ptr<S>() : nullptr;
  }

 private:
  at::Tensor rows_;
};

template <typename Launch>
NormShiftMixTensors run_norm_shift_mix(const Launch& launch, const NormShiftMixArguments& in,
                                       double eps) {
  check_norm_shift_mix(in);
  const at::Tensor x = in.x.contiguous();
  const auto math = x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const auto moment = [&] { return at::empty({x.size(0), x.size(1)}, x.options().dtype(math)); };
  NormShiftMixTensors out{in.delta.has_value() ? at::empty_like(x) : at::empty({0}, x.options()),
                          moment(),
                          moment(),
                          at::empty({x.size(0), x.size(2)}, x.options()),
                          {}};
  for (size_t i = 0; i < in.mix.size(); ++i) std::get<4>(out).push_back(at::empty_like(x));
  with_storage_type(x.scalar_type(), [&]<typename S>(std::type_identity<S>) {
    using M = WkvMath<S>;
    const RowParameters parameters(in, math);
    const RowInput delta(in.delta), previous(in.previous), reset(in.reset);
    NormShiftMixRows<S> args{};
    args.B = x.size(0);
    args.T = x.size(1);
    args.C = x.size(2);
    args.eps = static_cast<M>(eps);
    parameters.fill(args);
    args.x = x.const_data_ptr<S>();
    args.delta = delta.data<S>();
    args.previous = previous.data<S>();
    args.reset = reset.data<bool>();
    args.sum = in.delta.has_value() ? std::get<0>(out).mutable_data_ptr<S>() : nullptr;
    args.mean = std::get<1>(out).mutable_data_ptr<M>();
    args.rstd = std::get<2>(out).mutable_data_ptr<M>();
    args.last = std::get<3>(out).mutable_data_ptr<S>();
    for (size_t i = 0; i < in.mix.size(); ++i) {
      args.mixed[i] = std::get<4>(out)[i].mutable_data_ptr<S>();
    }
    launch.run(args);
  });
  return out;
}

template <typename Launch>
NormShiftMixGradients run_norm_shift_mix_backward(const Launch& launch,
                                                  const NormShiftMixArguments& in,
                                                  const at::Tensor& mean, const at::Tensor& rstd,
                                                  at::TensorList g_mixed,
                                                  const OptionalTensor& g_sum,
                                                  const OptionalTensor& g_last) {
  check_norm_shift_mix_backward(in, mean, rstd, g_mixed, g_sum, g_last);
  const at::Tensor sum = in.x.contiguous(), mean_rows = mean.contiguous(),
                   rstd_rows = rstd.contiguous();
  std::vector<at::Tensor> g_rows, mixed, g_mix;
  for (const at::Tensor& g : g_mixed) {
    g_rows.push_back(g.contiguous());
    mixed.push_back(at::empty_like(sum));
  }
  const at::Tensor gx = at::empty_like(sum);
  const at::Tensor g_previous = in.previous.has_value()
                                    ? at::empty(in.previous->sizes(), sum.options())
                                    : at::empty({0}, sum.options());
  const int64_t blocks = blocks_of_rows(sum.size(0) * sum.size(1));
  const at::Tensor partial =
      at::zeros({blocks, 2 + static_cast<int64_t>(in.mix.size()), sum.size(2)}, mean.options());
  with_storage_type(sum.scalar_type(), [&]<typename S>(std::type_identity<S>) {
    using M = WkvMath<S>;
    const RowParameters parameters(in, mean.scalar_type());
    const RowInput previous(in.previous), reset(in.reset), of_sum(g_sum), of_last(g_last);
    NormShiftMixBackwardRows<S> args{};
    args.B = sum.size(0);
    args.T = sum.size(1);
    args.C = sum.size(2);
    parameters.fill(args);
    args.sum = sum.const_data_ptr<S>();
    args.previous = previous.data<S>();
    args.reset = reset.data<bool>();
    args.mean = mean_rows.const_data_ptr<M>();
    args.rstd = rstd_rows.const_data_ptr<M>();
    args.g_sum = of_sum.data<S>();
    args.g_last = of_last.data<S>();
    args.gx = gx.mutable_data_ptr<S>();
    args.g_previous = in.previous.has_value() ? g_previous.mutable_data_ptr<S>() : nullptr;
    args.partial = partial.mutable_data_ptr<M>();
    for (size_t i = 0; i < mixed.size(); ++i) {
      args.g_mixed[i] = g_rows[i].const_data_ptr<S>();
      args.mixed[i] = mixed[i].mutable_data_ptr<S>();
    }
    launch.run(args);
  });
  const at::Tensor total = partial.sum(0);
  const auto like = [&](int64_t row, const at::Tensor& parameter) {
    return total.select(0, row).view_as(parameter).to(parameter.scalar_type());
  };
  for (size_t i = 0; i < in.mix.size(); ++i) {
    g_mix.push_back(like(2 + static_cast<int64_t>(i), in.mix[i]));
  }
  return {gx, like(0, in.weight), like(1, in.bias), g_previous, g_mix, mixed};
}

template <typename Launch>
at::Tensor run_cross_entropy_rows(const Launch& launch, const at::Tensor& logits,
                                  const at::Tensor& targets, const at::Tensor& weights,
                                  double l2wrap, bool gradient) {
  check_cross_entropy_rows(logits, targets, weights);
  const at::Tensor target = targets.contiguous(), weight = weights.contiguous();
  const at::Tensor losses = at::empty(weight.sizes(), weight.options());
  with_storage_type(logits.scalar_type(), [&]<typename S>(std::type_identity<S>) {
    using M = WkvMath<S>;
    launch.run(CrossEntropyRows<S>{logits.size(0), logits.size(1), logits.mutable_data_ptr<S>(),
                                   target.const_data_ptr<int64_t>(), weight.const_data_ptr<M>(),
                                   static_cast<M>(l2wrap), gradient, losses.mutable_data_ptr<M>()});
  });
  return losses;
}

/// With g: the backward, in place of g.
template <typename Launch>
at::Tensor run_relu_square(const Launch& launch, const at::Tensor& x, const at::Tensor& g) {
  check_elementwise("relu_square", x);
  if (g.defined()) {
    check_elementwise("relu_square", x, "the gradient", g);
    TORCH_CHECK(g.is_contiguous(), "relu_square: the gradient must be contiguous, its strides are ",
                g.strides());
  }
  const at::Tensor from = x.contiguous(), out = at::empty(x.sizes(), x.options());
  with_storage_type(x.scalar_type(), [&]<typename S>(std::type_identity<S>) {
    ElementwiseRows<S> args{};
    args.n = x.numel();
    args.x = from.const_data_ptr<S>();
    args.g = g.defined() ? g.mutable_data_ptr<S>() : nullptr;
    args.out = out.mutable_data_ptr<S>();
    launch.run_relu_square(args);
  });
  return out;
}

/// The forward where `backward` is false (first tensor: out), else the gradients of r and v, x
/// being the gradient of out.
template <typename Launch>
std::tuple<at::Tensor, at::Tensor> run_gate_residual(const Launch& launch, const at::Tensor& x,
                                                     const at::Tensor& r, const at::Tensor& v,
                                                     bool backward) {
  check_elementwise("gate_residual", x, "r", r);
  check_elementwise("gate_residual", x, "v", v);
  const at::Tensor x_rows = x.contiguous(), r_rows = r.contiguous(), v_rows = v.contiguous();
  const at::Tensor first = at::empty(x.sizes(), x.options());
  const at::Tensor second = backward ? at::empty(x.sizes(), x.options()) : at::Tensor();
  with_storage_type(x.scalar_type(), [&]<typename S>(std::type_identity<S>) {
    ElementwiseRows<S> args{};
    args.n = x.numel();
    args.x = x_rows.const_data_ptr<S>();
    args.r = r_rows.const_data_ptr<S>();
    args.v = v_rows.const_data_ptr<S>();
    (backward ? args.gr : args.out) = first.mutable_data_ptr<S>();
    if (backward) args.gv = second.mutable_data_ptr<S>();
    launch.run_gate_residual(args);
  });
  return {first, second};
}

/// The kernels of one device, by operator, for a Launch.
template <typename Launch>
struct RowOperators {
  using In = const at::Tensor&;
  using MaybeIn = const OptionalTensor&;

  static NormShiftMixTensors norm_shift_mix(In x, MaybeIn delta, In weight, In bias, double eps,
                                            MaybeIn previous, MaybeIn reset, at::TensorList mix) {
    const c10::DeviceGuard guard(x.device());
    return run_norm_shift_mix(Launch(), {x, delta, weight, bias, previous, reset, mix}, eps);
  }
  static NormShiftMixGradients norm_shift_mix_backward(In sum, In mean, In rstd, In weight, In bias,
                                                       MaybeIn previous, MaybeIn reset,
                                                       at::TensorList mix, at::TensorList g_mixed,
                                                       MaybeIn g_sum, MaybeIn g_last) {
    const c10::DeviceGuard guard(sum.device());
    const OptionalTensor none;
    return run_norm_shift_mix_backward(Launch(), {sum, none, weight, bias, previous, reset, mix},
                                       mean, rstd, g_mixed, g_sum, g_last);
  }
  static at::Tensor cross_entropy_rows_(at::Tensor logits, In targets, In weights, double l2wrap,
                                        bool gradient) {
    const c10::DeviceGuard guard(logits.device());
    return run_cross_entropy_rows(Launch(), logits, targets, weights, l2wrap, gradient);
  }
  static at::Tensor relu_square(In x) {
    const c10::DeviceGuard guard(x.device());
    return run_relu_square(Launch(), x, at::Tensor());
  }
  static at::Tensor relu_square_backward_(In x, at::Tensor g) {
    const c10::DeviceGuard guard(x.device());
    return run_relu_square(Launch(), x, g);
  }
  static at::Tensor gate_residual(In x, In r, In v) {
    const c10::DeviceGuard guard(x.device());
    return std::get<0>(run_gate_residual(Launch(), x, r, v, /*backward=*/false));
  }
  static std::tuple<at::Tensor, at::Tensor> gate_residual_backward(In g, In r, In v) {
    const c10::DeviceGuard guard(g.device());
    return run_gate_residual(Launch(), g, r, v, /*backward=*/true);
  }

  template <typename Library>
  static void register_in(Library& m) {
    m.impl("norm_shift_mix", norm_shift_mix);
    m.impl("norm_shift_mix_backward", norm_shift_mix_backward);
    m.impl("cross_entropy_rows_", cross_entropy_rows_);
    m.impl("relu_square", relu_square);
    m.impl("relu_square_backward_", relu_square_backward_);
    m.impl("gate_residual", gate_residual);
    m.impl("gate_residual_backward", gate_residual_backward);
  }
};

}  // namespace rwkv::ops
