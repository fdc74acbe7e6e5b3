#include "cuda/wkv4_gated.h"

#include <ATen/ATen.h>
#include <torch/library.h>

#include "cuda/wkv4_tile.h"

namespace rwkv::ops {

TORCH_LIBRARY_FRAGMENT(rwkv, m) {
  m.def(
      "wkv4_gated(Tensor time_decay, Tensor time_first, Tensor k, Tensor v, Tensor r, Tensor? "
      "reset, Tensor? a, Tensor? b, Tensor? p) -> (Tensor out, Tensor a, Tensor b, Tensor p)");
  m.def(
      "wkv4_gated_train(Tensor time_decay, Tensor time_first, Tensor k, Tensor v, Tensor r, "
      "Tensor? reset, Tensor? a, Tensor? b, Tensor? p) -> (Tensor out, Tensor a, Tensor b, Tensor "
      "p, Tensor checkpoints)");
  m.def(
      "wkv4_gated_backward(Tensor time_decay, Tensor time_first, Tensor k, Tensor v, Tensor r, "
      "Tensor? reset, Tensor checkpoints, Tensor? g, Tensor? ga, Tensor? gb) -> (Tensor "
      "time_decay, Tensor time_first, Tensor k, Tensor v, Tensor r, Tensor a, Tensor b, Tensor p, "
      "Tensor out)");
}

using In = const at::Tensor&;
using MaybeIn = const OptionalTensor&;

Wkv4GatedForward call_wkv4_gated(In time_decay, In time_first, In k, In v, In r, MaybeIn reset,
                                 MaybeIn a, MaybeIn b, MaybeIn p) {
  static const auto op =
      c10::Dispatcher::singleton()
          .findSchemaOrThrow("rwkv::wkv4_gated", "")
          .typed<Wkv4GatedForward(In, In, In, In, In, MaybeIn, MaybeIn, MaybeIn, MaybeIn)>();
  return op.call(time_decay, time_first, k, v, r, reset, a, b, p);
}

Wkv4GatedTrain call_wkv4_gated_train(In time_decay, In time_first, In k, In v, In r, MaybeIn reset,
                                     MaybeIn a, MaybeIn b, MaybeIn p) {
  static const auto op =
      c10::Dispatcher::singleton()
          .findSchemaOrThrow("rwkv::wkv4_gated_train", "")
          .typed<Wkv4GatedTrain(In, In, In, In, In, MaybeIn, MaybeIn, MaybeIn, MaybeIn)>();
  return op.call(time_decay, time_first, k, v, r, reset, a, b, p);
}

Wkv4GatedBackward call_wkv4_gated_backward(In time_decay, In time_first, In k, In v, In r,
                                           MaybeIn reset, In checkpoints, MaybeIn g, MaybeIn ga,
                                           MaybeIn gb) {
  static const auto op =
      c10::Dispatcher::singleton()
          .findSchemaOrThrow("rwkv::wkv4_gated_backward", "")
          .typed<Wkv4GatedBackward(In, In, In, In, In, MaybeIn, In, MaybeIn, MaybeIn, MaybeIn)>();
  return op.call(time_decay, time_first, k, v, r, reset, checkpoints, g, ga, gb);
}

namespace {

// The meta device answers as the CPU does, as in ops.cpp.

Wkv4GatedTrain wkv4_gated_train_meta(In time_decay, In time_first, In k, In v, In r, MaybeIn reset,
                                     MaybeIn a, MaybeIn b, MaybeIn p) {
  const Wkv4Arguments in{time_decay, time_first, k, v, reset, &r};
  const Wkv4Shape shape = check_wkv4(in, kWkvTileTokens);
  check_wkv4_state(in, shape, a, b, p);
  const auto options = k.options().dtype(shape.math);
  const auto state = [&] { return at::empty(shape.state(), options); };
  return {at::empty(k.sizes(), k.options()), state(), state(), state(),
          at::empty(shape.checkpoints(), options)};
}

Wkv4GatedForward wkv4_gated_meta(In time_decay, In time_first, In k, In v, In r, MaybeIn reset,
                                 MaybeIn a, MaybeIn b, MaybeIn p) {
  auto [out, a_T, b_T, p_T, checkpoints] =
      wkv4_gated_train_meta(time_decay, time_first, k, v, r, reset, a, b, p);
  return {out, a_T, b_T, p_T};
}

Wkv4GatedBackward wkv4_gated_backward_meta(In time_decay, In time_first, In k, In v, In r,
                                           MaybeIn reset, In checkpoints, MaybeIn g, MaybeIn ga,
                                           MaybeIn gb) {
  const Wkv4Arguments in{time_decay, time_first, k, v, reset, &r};
  const Wkv4Shape shape = check_wkv4(in, kWkvTileTokens);
  check_wkv4_backward(in, shape, checkpoints, g, ga, gb);
  const auto like = [](In tensor) { return at::empty(tensor.sizes(), tensor.options()); };
  const auto state = [&] { return at::empty(shape.state(), checkpoints.options()); };
  return {like(time_decay), like(time_first), like(k), like(v), like(r),
          state(),          state(),          state(), like(k)};
}

TORCH_LIBRARY_IMPL(rwkv, Meta, m) {
  m.impl("wkv4_gated", wkv4_gated_meta);
  m.impl("wkv4_gated_train", wkv4_gated_train_meta);
  m.impl("wkv4_gated_backward", wkv4_gated_backward_meta);
}

}  // namespace
}  // namespace rwkv::ops
