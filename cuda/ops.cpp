#include "cuda/ops.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include "cuda/wkv4.h"
#include "cuda/wkv4_tile.h"

namespace rwkv::ops {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// d is time_decay, u is time_first. wkv4_train also returns the checkpoints that wkv4_backward
// recomputes from: (B, tiles, 5, C) holding a, b, p and the derivatives of A and B by the decay.
// The number of tiles is the device's own affair; the meta device answers as the CPU does.
TORCH_LIBRARY(rwkv, m) {
  m.def(
      "wkv4(Tensor time_decay, Tensor time_first, Tensor k, Tensor v, Tensor? reset, Tensor? a, "
      "Tensor? b, Tensor? p) -> (Tensor y, Tensor a, Tensor b, Tensor p)");
  m.def(
      "wkv4_train(Tensor time_decay, Tensor time_first, Tensor k, Tensor v, Tensor? reset, Tensor? "
      "a, Tensor? b, Tensor? p) -> (Tensor y, Tensor a, Tensor b, Tensor p, Tensor checkpoints)");
  m.def(
      "wkv4_backward(Tensor time_decay, Tensor time_first, Tensor k, Tensor v, Tensor? reset, "
      "Tensor checkpoints, Tensor? gy, Tensor? ga, Tensor? gb) -> (Tensor time_decay, Tensor "
      "time_first, Tensor k, Tensor v, Tensor a, Tensor b, Tensor p)");
}

namespace {

using Four = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor>;
using Five = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor>;
using Seven =
    std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor>;
using In = const at::Tensor&;
using MaybeIn = const OptionalTensor&;

Four call_wkv4(In time_decay, In time_first, In k, In v, MaybeIn reset, MaybeIn a, MaybeIn b,
               MaybeIn p) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("rwkv::wkv4", "")
                             .typed<Four(In, In, In, In, MaybeIn, MaybeIn, MaybeIn, MaybeIn)>();
  return op.call(time_decay, time_first, k, v, reset, a, b, p);
}

Five call_wkv4_train(In time_decay, In time_first, In k, In v, MaybeIn reset, MaybeIn a, MaybeIn b,
                     MaybeIn p) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("rwkv::wkv4_train", "")
                             .typed<Five(In, In, In, In, MaybeIn, MaybeIn, MaybeIn, MaybeIn)>();
  return op.call(time_decay, time_first, k, v, reset, a, b, p);
}

Seven call_wkv4_backward(In time_decay, In time_first, In k, In v, MaybeIn reset, In checkpoints,
                         MaybeIn gy, MaybeIn ga, MaybeIn gb) {
  static const auto op =
      c10::Dispatcher::singleton()
          .findSchemaOrThrow("rwkv::wkv4_backward", "")
          .typed<Seven(In, In, In, In, MaybeIn, In, MaybeIn, MaybeIn, MaybeIn)>();
  return op.call(time_decay, time_first, k, v, reset, checkpoints, gy, ga, gb);
}

OptionalTensor if_defined(const at::Tensor& tensor) {
  return tensor.defined() ? OptionalTensor(tensor) : std::nullopt;
}

class Wkv4Function : public torch::autograd::Function<Wkv4Function> {
 public:
  static variable_list forward(AutogradContext* ctx, In time_decay, In time_first, In k, In v,
                               MaybeIn reset, MaybeIn a, MaybeIn b, MaybeIn p) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    // Copied once here, not once in the forward and again in the backward.
    const at::Tensor k_rows = k.contiguous();
    const at::Tensor v_rows = v.contiguous();
    auto [y, a_T, b_T, p_T, checkpoints] =
        call_wkv4_train(time_decay, time_first, k_rows, v_rows, reset, a, b, p);
    ctx->save_for_backward(
        {time_decay, time_first, k_rows, v_rows, reset.value_or(at::Tensor()), checkpoints});
    ctx->saved_data["has_state"] = a.has_value();
    ctx->set_materialize_grads(false);
    ctx->mark_non_differentiable({p_T});
    return {y, a_T, b_T, p_T};
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& gradients) {
    TORCH_CHECK(!at::GradMode::is_enabled(),
                "wkv4: second derivatives are not implemented; call backward without create_graph");
    const at::AutoDispatchBelowADInplaceOrView guard;
    const variable_list saved = ctx->get_saved_variables();
    auto [time_decay, time_first, k, v, a, b, p] = call_wkv4_backward(
        saved[0], saved[1], saved[2], saved[3], if_defined(saved[4]), saved[5],
        if_defined(gradients[0]), if_defined(gradients[1]), if_defined(gradients[2]));
    const at::Tensor none;
    if (!ctx->saved_data["has_state"].toBool()) {
      return {time_decay, time_first, k, v, none, none, none, none};
    }
    return {time_decay, time_first, k, v, none, a, b, p};
  }
};

bool needs_gradient(const OptionalTensor& tensor) {
  return tensor.has_value() && tensor->requires_grad();
}

Four wkv4_autograd(In time_decay, In time_first, In k, In v, MaybeIn reset, MaybeIn a, MaybeIn b,
                   MaybeIn p) {
  const bool training =
      at::GradMode::is_enabled() &&
      (time_decay.requires_grad() || time_first.requires_grad() || k.requires_grad() ||
       v.requires_grad() || needs_gradient(a) || needs_gradient(b) || needs_gradient(p));
  if (!training) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    return call_wkv4(time_decay, time_first, k, v, reset, a, b, p);
  }
  const variable_list out = Wkv4Function::apply(time_decay, time_first, k, v, reset, a, b, p);
  return {out[0], out[1], out[2], out[3]};
}

Five wkv4_train_meta(In time_decay, In time_first, In k, In v, MaybeIn reset, MaybeIn a, MaybeIn b,
                     MaybeIn p) {
  const Wkv4Arguments in{time_decay, time_first, k, v, reset};
  const Wkv4Shape shape = check_wkv4(in, kWkvTileTokens);
  check_wkv4_state(in, shape, a, b, p);
  const auto options = k.options().dtype(shape.math);
  const auto state = [&] { return at::empty(shape.state(), options); };
  return {at::empty(k.sizes(), k.options()), state(), state(), state(),
          at::empty(shape.checkpoints(), options)};
}

Four wkv4_meta(In time_decay, In time_first, In k, In v, MaybeIn reset, MaybeIn a, MaybeIn b,
               MaybeIn p) {
  auto [y, a_T, b_T, p_T, checkpoints] =
      wkv4_train_meta(time_decay, time_first, k, v, reset, a, b, p);
  return {y, a_T, b_T, p_T};
}

Seven wkv4_backward_meta(In time_decay, In time_first, In k, In v, MaybeIn reset, In checkpoints,
                         MaybeIn gy, MaybeIn ga, MaybeIn gb) {
  const Wkv4Arguments in{time_decay, time_first, k, v, reset};
  const Wkv4Shape shape = check_wkv4(in, kWkvTileTokens);
  check_wkv4_backward(in, shape, checkpoints, gy, ga, gb);
  const auto like = [](In tensor) { return at::empty(tensor.sizes(), tensor.options()); };
  const auto state = [&] { return at::empty(shape.state(), checkpoints.options()); };
  return {like(time_decay), like(time_first), like(k), like(v), state(), state(), state()};
}

TORCH_LIBRARY_IMPL(rwkv, Autograd, m) { m.impl("wkv4", wkv4_autograd); }

TORCH_LIBRARY_IMPL(rwkv, Meta, m) {
  m.impl("wkv4", wkv4_meta);
  m.impl("wkv4_train", wkv4_train_meta);
  m.impl("wkv4_backward", wkv4_backward_meta);
}

}  // namespace

Four wkv4(In time_decay, In time_first, In k, In v, const Wkv4State& state, In reset) {
  return call_wkv4(time_decay, time_first, k, v, if_defined(reset), if_defined(state.a),
                   if_defined(state.b), if_defined(state.p));
}

}  // namespace rwkv::ops
