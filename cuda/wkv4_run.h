#pragma once

#include <ATen/ATen.h>

#include <tuple>
#include <type_traits>

#include "cuda/wkv4.h"
#include "cuda/wkv4_thread.h"

// The operators of WKV-4 on tensors for kernels made of wkv4_thread.h: checks, outputs, pointers. A
// `Launch` runs the bodies: on a GPU in wkv4_cuda.cpp, on the host in the tests. It has
//   template <typename S> void forward(const WkvForwardArguments<S>& args) const;
//   template <typename S> void backward(const WkvBackwardArguments<S>& args) const;
//   template <typename M> void sum(const WkvSumArguments<M>& args) const;

namespace rwkv::ops {

/// Contiguous inputs in the types that the kernels read, kept alive for one run.
template <typename S>
class WkvInputs {
 public:
  using M = WkvMath<S>;

  WkvInputs(const Wkv4Arguments& in, const Wkv4Shape& shape)
      : time_decay_(in.time_decay.to(shape.math).contiguous()),
        time_first_(in.time_first.to(shape.math).contiguous()),
        k_(in.k.contiguous()),
        v_(in.v.contiguous()),
        r_(in.r != nullptr ? in.r->contiguous() : at::Tensor()),
        reset_(in.reset.has_value() ? in.reset->contiguous() : at::Tensor()),
        sizes_{shape.B, shape.T, shape.C, shape.tiles} {}

  template <typename Arguments>
  void fill(Arguments& args) const {
    args.sizes = sizes_;
    args.time_decay = time_decay_.const_data_ptr<M>();
    args.time_first = time_first_.const_data_ptr<M>();
    args.k = k_.const_data_ptr<S>();
    args.v = v_.const_data_ptr<S>();
    args.r = r_.defined() ? r_.const_data_ptr<S>() : nullptr;
    args.reset = reset_.defined() ? reset_.const_data_ptr<bool>() : nullptr;
  }

 private:
  at::Tensor time_decay_, time_first_, k_, v_, r_, reset_;
  WkvSizes sizes_;
};

/// A contiguous tensor that is given or not, kept alive for one run.
template <typename M>
class WkvOptionalInput {
 public:
  explicit WkvOptionalInput(const OptionalTensor& given)
      : rows_(given.has_value() ? given->contiguous() : at::Tensor()) {}

  [[nodiscard]] const M* data() const {
    return rows_.defined() ? rows_.const_data_ptr<M>() : nullptr;
  }

 private:
  at::Tensor rows_;
};

/// y, a, b, p and the checkpoints (undefined unless `training`).
using Wkv4ForwardTensors = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor>;
/// Gradients of time_decay, time_first, k, v, a, b, p.
using Wkv4BackwardTensors =
    std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor>;

/// What the gated backward returns beside that: the gradient of r, and the gated output.
struct Wkv4GateTensors {
  at::Tensor gr, out;
};

template <typename Launch>
Wkv4ForwardTensors run_wkv4_forward(const Launch& launch, const Wkv4Arguments& in,
                                    const OptionalTensor& a, const OptionalTensor& b,
                                    const OptionalTensor& p, bool training) {
  const Wkv4Shape shape = check_wkv4(in, kWkvChunkTokens);
  check_wkv4_state(in, shape, a, b, p);
  const auto options = in.k.options().dtype(shape.math);
  const auto state = [&] { return at::empty(shape.state(), options); };
  const at::Tensor y = at::empty(in.k.sizes(), in.k.options());
  const at::Tensor a_T = state(), b_T = state(), p_T = state();
  const at::Tensor checkpoints = training ? at::empty(shape.checkpoints(), options) : at::Tensor();
  with_storage_type(in.k.scalar_type(), [&]<typename S>(std::type_identity<S>) {
    using M = WkvMath<S>;
    const WkvInputs<S> inputs(in, shape);
    const WkvOptionalInput<M> a_0(a), b_0(b), p_0(p);
    WkvForwardArguments<S> args{};
    inputs.fill(args);
    args.a_0 = a_0.data();
    args.b_0 = b_0.data();
    args.p_0 = p_0.data();
    args.y = y.mutable_data_ptr<S>();
    args.a = a_T.mutable_data_ptr<M>();
    args.b = b_T.mutable_data_ptr<M>();
    args.p = p_T.mutable_data_ptr<M>();
    args.checkpoints = training ? checkpoints.mutable_data_ptr<M>() : nullptr;
    launch.forward(args);
  });
  return {y, a_T, b_T, p_T, checkpoints};
}

template <typename Launch>
Wkv4BackwardTensors run_wkv4_backward(const Launch& launch, const Wkv4Arguments& in,
                                      const at::Tensor& checkpoints, const OptionalTensor& gy,
                                      const OptionalTensor& ga, const OptionalTensor& gb,
                                      Wkv4GateTensors* gate = nullptr) {
  TORCH_INTERNAL_ASSERT((in.r != nullptr) == (gate != nullptr));
  const Wkv4Shape shape = check_wkv4(in, kWkvChunkTokens);
  check_wkv4_backward(in, shape, checkpoints, gy, ga, gb);
  const auto state = [&] { return at::empty(shape.state(), checkpoints.options()); };
  // One gradient of the final state given means both.
  const auto given = [&](const OptionalTensor& gradient) -> OptionalTensor {
    if (gradient.has_value() || !(ga.has_value() || gb.has_value())) return gradient;
    return at::zeros(shape.state(), checkpoints.options());
  };
  const at::Tensor gy_rows =
      gy.has_value() ? gy->contiguous() : at::zeros(in.k.sizes(), in.k.options());
  const at::Tensor kept = checkpoints.contiguous();
  const at::Tensor gk = at::empty(in.k.sizes(), in.k.options());
  const at::Tensor gv = at::empty(in.k.sizes(), in.k.options());
  if (gate != nullptr) {
    gate->gr = at::empty(in.k.sizes(), in.k.options());
    gate->out = at::empty(in.k.sizes(), in.k.options());
  }
  const at::Tensor ga_0 = state(), gb_0 = state(), gp_0 = state(), gw = state(), gu = state();
  const at::Tensor g_decay = at::empty({shape.C}, checkpoints.options());
  const at::Tensor g_first = at::empty({shape.C}, checkpoints.options());
  with_storage_type(in.k.scalar_type(), [&]<typename S>(std::type_identity<S>) {
    using M = WkvMath<S>;
    const WkvInputs<S> inputs(in, shape);
    const WkvOptionalInput<M> ga_rows(given(ga)), gb_rows(given(gb));
    WkvBackwardArguments<S> args{};
    inputs.fill(args);
    args.checkpoints = kept.const_data_ptr<M>();
    args.gy = gy_rows.const_data_ptr<S>();
    args.ga = ga_rows.data();
    args.gb = gb_rows.data();
    args.gk = gk.mutable_data_ptr<S>();
    args.gv = gv.mutable_data_ptr<S>();
    args.gr = gate != nullptr ? gate->gr.mutable_data_ptr<S>() : nullptr;
    args.out = gate != nullptr ? gate->out.mutable_data_ptr<S>() : nullptr;
    args.ga_0 = ga_0.mutable_data_ptr<M>();
    args.gb_0 = gb_0.mutable_data_ptr<M>();
    args.gp_0 = gp_0.mutable_data_ptr<M>();
    args.gw = gw.mutable_data_ptr<M>();
    args.gu = gu.mutable_data_ptr<M>();
    launch.backward(args);
    launch.sum(WkvSumArguments<M>{shape.B, shape.C, args.time_decay, args.gw, args.gu,
                                  g_decay.mutable_data_ptr<M>(), g_first.mutable_data_ptr<M>()});
  });
  return {g_decay.to(in.time_decay.scalar_type()),
          g_first.to(in.time_first.scalar_type()),
          gk,
          gv,
          ga_0,
          gb_0,
          gp_0};
}

}  // namespace rwkv::ops
