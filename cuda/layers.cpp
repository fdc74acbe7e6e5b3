#include "cuda/layers.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include "cuda/elementwise.h"
#include "cuda/norm_shift_mix.h"
#include "cuda/wkv4_gated.h"

namespace rwkv::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using In = const at::Tensor&;
using MaybeIn = const OptionalTensor&;

OptionalTensor if_defined(In tensor) {
  return tensor.defined() ? OptionalTensor(tensor) : std::nullopt;
}

void check_first_derivative(const char* name) {
  TORCH_CHECK(!at::GradMode::is_enabled(), name,
              ": second derivatives are not implemented; call backward without create_graph");
}

at::Tensor rows_of(In tensor) { return tensor.reshape({-1, tensor.size(-1)}); }

/// Gradient of the weight of out = linear(in, weight).
at::Tensor weight_gradient(In g_out, In in) { return at::mm(rows_of(g_out).t(), rows_of(in)); }

/// Gradient of its input, (..., in).
at::Tensor input_gradient(In g_out, In weight) {
  at::DimVector sizes(g_out.sizes());
  sizes.back() = weight.size(1);
  return at::mm(rows_of(g_out), weight).view(sizes);
}

class NormMixLinear : public torch::autograd::Function<NormMixLinear> {
 public:
  // Variables in the order of their gradients; those that may be missing come last.
  static variable_list forward(AutogradContext* ctx, In x, In norm_weight, In norm_bias,
                               at::TensorList mix, at::TensorList weights, MaybeIn delta,
                               MaybeIn previous, MaybeIn reset, double eps) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    auto [sum, mean, rstd, last, mixed] =
        call_norm_shift_mix({x, delta, norm_weight, norm_bias, previous, reset, mix}, eps);
    if (!delta.has_value()) sum = x;
    variable_list out{sum, last};
    for (size_t i = 0; i < mixed.size(); ++i) {
      out.push_back(at::linear(mixed[i], weights[i]));
      mixed[i].reset();
    }
    variable_list saved{sum,
                        mean,
                        rstd,
                        norm_weight,
                        norm_bias,
                        previous.value_or(at::Tensor()),
                        reset.value_or(at::Tensor())};
    saved.insert(saved.end(), mix.begin(), mix.end());
    saved.insert(saved.end(), weights.begin(), weights.end());
    ctx->save_for_backward(saved);
    ctx->saved_data["has_delta"] = delta.has_value();
    ctx->set_materialize_grads(false);
    return out;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& incoming) {
    check_first_derivative("norm_mix_linear");
    const at::AutoDispatchBelowADInplaceOrView guard;
    const variable_list saved = ctx->get_saved_variables();
    constexpr size_t kBeforeMix = 7, kBeforeOut = 2, kEdgesBeforeMix = 3;
    const size_t n = (saved.size() - kBeforeMix) / 2;
    const at::TensorList mix(&saved[kBeforeMix], n), weights(&saved[kBeforeMix + n], n);
    variable_list g_out(incoming.begin() + kBeforeOut, incoming.end());
    variable_list g_mixed;
    for (size_t i = 0; i < n; ++i) {
      if (!g_out[i].defined()) {
        at::DimVector sizes(saved[0].sizes());
        sizes.back() = weights[i].size(0);
        g_out[i] = at::zeros(sizes, saved[0].options());
      }
      g_mixed.push_back(input_gradient(g_out[i], weights[i]));
    }
    const OptionalTensor none;
    const OptionalTensor previous = if_defined(saved[5]), reset = if_defined(saved[6]);
    auto [gx, g_norm_weight, g_norm_bias, g_previous, g_mix, mixed] = call_norm_shift_mix_backward(
        {saved[0], none, saved[3], saved[4], previous, reset, mix}, saved[1], saved[2], g_mixed,
        if_defined(incoming[0]), if_defined(incoming[1]));
    g_mixed.clear();
    variable_list gradients{gx, g_norm_weight, g_norm_bias};
    gradients.insert(gradients.end(), g_mix.begin(), g_mix.end());
    for (size_t i = 0; i < n; ++i) {
      const bool wanted = ctx->needs_input_grad(kEdgesBeforeMix + n + i);
      gradients.push_back(wanted ? weight_gradient(g_out[i], mixed[i]) : at::Tensor());
      mixed[i].reset();
      g_out[i].reset();
    }
    const bool has_delta = ctx->saved_data["has_delta"].toBool();
    gradients.insert(gradients.end(), {has_delta ? gx : at::Tensor(),
                                       previous.has_value() ? g_previous : at::Tensor(),
                                       at::Tensor(), at::Tensor()});
    return gradients;
  }
};

class GatedWkvLinear : public torch::autograd::Function<GatedWkvLinear> {
 public:
  static variable_list forward(AutogradContext* ctx, In time_decay, In time_first, In k, In v, In r,
                               In weight, MaybeIn a, MaybeIn b, MaybeIn p, MaybeIn reset,
                               bool training) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    if (!training) {
      const auto [out, a_T, b_T, p_T] =
          call_wkv4_gated(time_decay, time_first, k, v, r, reset, a, b, p);
      return {at::linear(out, weight), a_T, b_T, p_T};
    }
    const auto [out, a_T, b_T, p_T, checkpoints] =
        call_wkv4_gated_train(time_decay, time_first, k, v, r, reset, a, b, p);
    ctx->save_for_backward(
        {time_decay, time_first, k, v, r, weight, checkpoints, reset.value_or(at::Tensor())});
    ctx->saved_data["has_state"] = a.has_value();
    ctx->set_materialize_grads(false);
    ctx->mark_non_differentiable({p_T});
    return {at::linear(out, weight), a_T, b_T, p_T};
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& incoming) {
    check_first_derivative("gated_wkv_linear");
    const at::AutoDispatchBelowADInplaceOrView guard;
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor &k = saved[2], &weight = saved[5];
    const at::Tensor& g_out = incoming[0];
    OptionalTensor g;
    if (g_out.defined()) g = input_gradient(g_out, weight);
    auto [g_decay, g_first, gk, gv, gr, ga, gb, gp, out] =
        call_wkv4_gated_backward(saved[0], saved[1], k, saved[3], saved[4], if_defined(saved[7]),
                                 saved[6], g, if_defined(incoming[1]), if_defined(incoming[2]));
    constexpr size_t kWeightEdge = 5;
    at::Tensor g_weight;
    if (g_out.defined() && ctx->needs_input_grad(kWeightEdge)) {
      g_weight = weight_gradient(g_out, out);
    }
    const at::Tensor none;
    if (!ctx->saved_data["has_state"].toBool()) ga = gb = gp = none;
    return {g_decay, g_first, gk, gv, gr, g_weight, ga, gb, gp, none, none};
  }
};

class ReluSquareLinear : public torch::autograd::Function<ReluSquareLinear> {
 public:
  static at::Tensor forward(AutogradContext* ctx, In k, In weight) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    ctx->save_for_backward({k, weight});
    return at::linear(call_relu_square(k), weight);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& incoming) {
    check_first_derivative("relu_square_linear");
    const at::AutoDispatchBelowADInplaceOrView guard;
    const variable_list saved = ctx->get_saved_variables();
    at::Tensor gk = input_gradient(incoming[0], saved[1]);
    const at::Tensor squares = call_relu_square_backward(saved[0], gk);
    if (!ctx->needs_input_grad(1)) return {gk, {}};
    return {gk, weight_gradient(incoming[0], squares)};
  }
};

class GateResidual : public torch::autograd::Function<GateResidual> {
 public:
  static at::Tensor forward(AutogradContext* ctx, In x, In r, In v) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    ctx->save_for_backward({r, v});
    return call_gate_residual(x, r, v);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& incoming) {
    check_first_derivative("gate_residual");
    const at::AutoDispatchBelowADInplaceOrView guard;
    const variable_list saved = ctx->get_saved_variables();
    const auto [gr, gv] = call_gate_residual_backward(incoming[0], saved[0], saved[1]);
    return {incoming[0], gr, gv};
  }
};

void check_weight(const char* name, In weight, In in) {
  TORCH_CHECK(weight.dim() == 2 && weight.size(1) == in.size(-1), name, ": the weight is ",
              weight.sizes(), ", its input has ", in.size(-1), " columns");
}

}  // namespace

NormMixLinearResult norm_mix_linear(In x, In delta, const LayerNormParameters& norm, In previous,
                                    In reset, const std::vector<MixedLinear>& products) {
  variable_list mix, weights;
  for (const MixedLinear& product : products) {
    check_weight("norm_mix_linear", product.weight, x);
    mix.push_back(product.mix);
    weights.push_back(product.weight);
  }
  variable_list out =
      NormMixLinear::apply(x, norm.weight, norm.bias, at::TensorList(mix), at::TensorList(weights),
                           if_defined(delta), if_defined(previous), if_defined(reset), norm.eps);
  return {out[0], out[1], variable_list(out.begin() + 2, out.end())};
}

GatedWkvResult gated_wkv_linear(In time_decay, In time_first, In k, In v, In r, In weight,
                                const Wkv4State& state, In reset) {
  check_weight("gated_wkv_linear", weight, k);
  bool training = false;
  for (const at::Tensor& in :
       {time_decay, time_first, k, v, r, weight, state.a, state.b, state.p}) {
    training = training || (at::GradMode::is_enabled() && in.defined() && in.requires_grad());
  }
  const variable_list out =
      GatedWkvLinear::apply(time_decay, time_first, k, v, r, weight, if_defined(state.a),
                            if_defined(state.b), if_defined(state.p), if_defined(reset), training);
  return {out[0], {out[1], out[2], out[3]}};
}

at::Tensor relu_square_linear(In k, In weight) {
  check_weight("relu_square_linear", weight, k);
  return ReluSquareLinear::apply(k, weight);
}

at::Tensor gate_residual(In x, In r, In v) { return GateResidual::apply(x, r, v); }

}  // namespace rwkv::ops
