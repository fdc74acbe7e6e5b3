#pragma once

#include <torch/torch.h>

#include <vector>

#include "cuda/ops.h"
#include "cuda/wkv4_thread.h"
#include "cuda/wkv4_tile.h"
#include "tests/cuda/test_device.h"

namespace rwkv::ops {

/// Inputs of one call.
struct Wkv4Case {
  at::Tensor time_decay, time_first, k, v;
  Wkv4State state;
  at::Tensor reset;

  [[nodiscard]] Wkv4Case to(at::ScalarType type) const {
    const auto cast = [&](const at::Tensor& x) { return x.defined() ? x.to(type) : x; };
    return {cast(time_decay),
            cast(time_first),
            cast(k),
            cast(v),
            {cast(state.a), cast(state.b), cast(state.p)},
            reset};
  }
};

/// y and the final state; A = a e^p and B = b e^p.
struct Wkv4Result {
  at::Tensor y, a, b, p;
};

/// The operator on test_device(), with inputs and results on the CPU.
inline Wkv4Result run(const Wkv4Case& in) {
  const at::Device device = test_device();
  const auto there = [&](const at::Tensor& x) {
    return !x.defined() || device.is_cpu() ? x : x.to(device);
  };
  const auto here = [&](const at::Tensor& x) { return device.is_cpu() ? x : x.to(at::kCPU); };
  auto [y, a, b, p] =
      wkv4(there(in.time_decay), there(in.time_first), there(in.k), there(in.v),
           {there(in.state.a), there(in.state.b), there(in.state.p)}, there(in.reset));
  return {here(y), here(a), here(b), here(p)};
}

/// Lengths around the tiles of both devices' kernels: 32 tokens on the CPU, 16 on CUDA.
inline std::vector<int64_t> lengths_around_tiles() {
  std::vector<int64_t> lengths{1, 2};
  for (const int64_t S : {int64_t{kWkvChunkTokens}, kWkvTileTokens}) {
    lengths.insert(lengths.end(), {S - 1, S, S + 1, 2 * S + 3});
  }
  return lengths;
}

/// Random inputs: parameters over the range of an initialised model, keys and values N(0, 1).
inline Wkv4Case random_case(int64_t B, int64_t T, int64_t C, at::ScalarType type = at::kFloat) {
  const auto options = at::TensorOptions().dtype(at::kDouble);
  return Wkv4Case{at::rand({C}, options) * 8 - 5,
                  at::randn({C}, options),
                  at::randn({B, T, C}, options),
                  at::randn({B, T, C}, options),
                  {},
                  {}}
      .to(type);
}

inline Wkv4State random_state(int64_t B, int64_t C, at::ScalarType type = at::kFloat) {
  const auto options = at::TensorOptions().dtype(at::kDouble);
  return {at::randn({B, C}, options).to(type), (at::rand({B, C}, options) + 0.5).to(type),
          at::randn({B, C}, options).to(type)};
}

/// The slow twin: the closed form as weighted means over all pairs of tokens, in float64, with
/// gradients by automatic differentiation. Token s reaches token t > s with exponent k_s + (t-1-s)
/// w; the token itself with u + k_t; the given state with p + t w. Shares no code with the
/// operator.
inline Wkv4Result slow_twin(const Wkv4Case& any) {
  const Wkv4Case in = any.to(at::kDouble);
  const int64_t B = in.k.size(0), T = in.k.size(1), C = in.k.size(2);
  const at::Tensor w = -in.time_decay.exp();
  const at::Tensor t = at::arange(T + 1, at::kDouble);  // row T is the state after the last token
  const at::Tensor s = at::arange(T, at::kDouble);
  const at::Tensor gap = t.view({T + 1, 1}) - 1 - s.view({1, T});
  // Number of documents begun up to and including each token: pairs must agree.
  at::Tensor document = in.reset.defined() ? in.reset.cumsum(1) : at::zeros({B, T}, at::kLong);
  const at::Tensor last = T > 0 ? document.narrow(1, T - 1, 1) : at::zeros({B, 1}, at::kLong);
  const at::Tensor document_of_row = at::cat({document, last}, 1);  // [B,T+1]
  const at::Tensor same = document_of_row.view({B, T + 1, 1}) == document.view({B, 1, T});

  at::Tensor e = in.k.view({B, 1, T, C}) + gap.view({1, T + 1, T, 1}) * w;
  const at::Tensor own = (gap == -1).view({1, T + 1, T, 1});
  e = at::where(own, (in.time_first + in.k).view({B, 1, T, C}), e);
  const at::Tensor visible = (gap >= -1).view({1, T + 1, T, 1}) & same.view({B, T + 1, T, 1});
  const double hidden = -1e300;
  e = at::where(visible, e, at::full({}, hidden, at::kDouble));
  at::Tensor e0 = at::full({B, T + 1, C}, hidden, at::kDouble);
  if (in.state.p.defined()) {
    e0 = in.state.p.view({B, 1, C}) + t.view({1, T + 1, 1}) * w;
    e0 = at::where((document_of_row == 0).view({B, T + 1, 1}), e0,
                   at::full({}, hidden, at::kDouble));
  }
  at::Tensor top = e0;
  if (T > 0) top = at::maximum(top, e.amax(2));
  top = top.detach();
  const at::Tensor weight = (e - top.unsqueeze(2)).exp();
  const at::Tensor weight0 = (e0 - top).exp();
  at::Tensor numerator = (weight * in.v.view({B, 1, T, C})).sum(2);
  at::Tensor denominator = weight.sum(2);
  if (in.state.a.defined()) {
    numerator = numerator + weight0 * in.state.a.view({B, 1, C});
    denominator = denominator + weight0 * in.state.b.view({B, 1, C});
  }
  return {(numerator / denominator).narrow(1, 0, T), numerator.select(1, T),
          denominator.select(1, T), top.select(1, T)};
}

/// Gradients of sum(y gy) + sum(A ca + B cb) (the second part where ca is defined) by the inputs,
/// in the order time_decay, time_first, k, v and, with a state, a, b, p.
template <typename Forward>
std::vector<at::Tensor> gradients(Forward forward, Wkv4Case in, const at::Tensor& gy,
                                  const at::Tensor& ca = {}, const at::Tensor& cb = {}) {
  std::vector<at::Tensor*> leaves{&in.time_decay, &in.time_first, &in.k, &in.v};
  if (in.state.a.defined()) {
    leaves.insert(leaves.end(), {&in.state.a, &in.state.b, &in.state.p});
  }
  std::vector<at::Tensor> inputs;
  for (at::Tensor* leaf : leaves) {
    *leaf = leaf->detach().clone().requires_grad_();
    inputs.push_back(*leaf);
  }
  const Wkv4Result out = forward(in);
  at::Tensor loss = (out.y * gy.to(out.y.scalar_type())).sum();
  if (ca.defined()) {
    loss = loss + ((out.a * ca + out.b * cb) * out.p.detach().exp()).sum();
  }
  return torch::autograd::grad({loss}, inputs, {}, {}, false, true);
}

/// rms(x - reference) / rms(reference).
inline double rms_error(const at::Tensor& x, const at::Tensor& reference) {
  const at::Tensor r = reference.detach().to(at::kDouble);
  const double scale = r.square().mean().sqrt().item<double>();
  const double difference = (x.detach().to(at::kDouble) - r).square().mean().sqrt().item<double>();
  return scale == 0 ? difference : difference / scale;
}

/// Largest difference relative to the largest element.
inline double max_error(const at::Tensor& x, const at::Tensor& reference) {
  const at::Tensor r = reference.detach().to(at::kDouble);
  const double scale = std::max(r.abs().max().item<double>(), 1e-30);
  return (x.detach().to(at::kDouble) - r).abs().max().item<double>() / scale;
}

}  // namespace rwkv::ops
