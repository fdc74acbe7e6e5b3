// Linked into a program of tests, this file replaces the CPU's WKV-4 kernels by the bodies of the
// CUDA kernels, called for every block and thread in turn. So the tests and golden files of the CPU
// check the CUDA bodies too, without a GPU and under the sanitizers.
#include <torch/library.h>

#include "cuda/rows_run.h"
#include "cuda/wkv4_gated.h"
#include "cuda/wkv4_run.h"

namespace rwkv::ops {
namespace {

using In = const at::Tensor&;
using MaybeIn = const OptionalTensor&;

/// Blocks run from the last to the first: no result may depend on their order.
template <typename Body>
void for_each_thread(int64_t threads, const Body& body) {
  for (int64_t block = wkv_blocks(threads) - 1; block >= 0; --block) {
    for (int thread = 0; thread < kWkvBlockThreads; ++thread) body(block, thread);
  }
}

struct HostLaunch {
  template <typename S>
  void forward(const WkvForwardArguments<S>& args) const {
    for_each_thread(args.sizes.B * args.sizes.C, [&](int64_t block, int thread) {
      if (args.checkpoints == nullptr) {
        wkv_forward_thread<false>(args, block, thread);
      } else {
        wkv_forward_thread<true>(args, block, thread);
      }
    });
  }
  template <typename S>
  void backward(const WkvBackwardArguments<S>& args) const {
    for_each_thread(args.sizes.B * args.sizes.C,
                    [&](int64_t block, int thread) { wkv_backward_thread(args, block, thread); });
  }
  template <typename M>
  void sum(const WkvSumArguments<M>& args) const {
    for_each_thread(args.C,
                    [&](int64_t block, int thread) { wkv_sum_thread(args, block, thread); });
  }
};

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> wkv4_host(In time_decay, In time_first,
                                                                     In k, In v, MaybeIn reset,
                                                                     MaybeIn a, MaybeIn b,
                                                                     MaybeIn p) {
  auto [y, a_T, b_T, p_T, none] =
      run_wkv4_forward(HostLaunch(), {time_decay, time_first, k, v, reset}, a, b, p, false);
  return {y, a_T, b_T, p_T};
}

Wkv4ForwardTensors wkv4_train_host(In time_decay, In time_first, In k, In v, MaybeIn reset,
                                   MaybeIn a, MaybeIn b, MaybeIn p) {
  return run_wkv4_forward(HostLaunch(), {time_decay, time_first, k, v, reset}, a, b, p, true);
}

Wkv4BackwardTensors wkv4_backward_host(In time_decay, In time_first, In k, In v, MaybeIn reset,
                                       In checkpoints, MaybeIn gy, MaybeIn ga, MaybeIn gb) {
  return run_wkv4_backward(HostLaunch(), {time_decay, time_first, k, v, reset}, checkpoints, gy, ga,
                           gb);
}

Wkv4GatedForward wkv4_gated_host(In time_decay, In time_first, In k, In v, In r, MaybeIn reset,
                                 MaybeIn a, MaybeIn b, MaybeIn p) {
  auto [out, a_T, b_T, p_T, none] =
      run_wkv4_forward(HostLaunch(), {time_decay, time_first, k, v, reset, &r}, a, b, p, false);
  return {out, a_T, b_T, p_T};
}

Wkv4GatedTrain wkv4_gated_train_host(In time_decay, In time_first, In k, In v, In r, MaybeIn reset,
                                     MaybeIn a, MaybeIn b, MaybeIn p) {
  return run_wkv4_forward(HostLaunch(), {time_decay, time_first, k, v, reset, &r}, a, b, p, true);
}

Wkv4GatedBackward wkv4_gated_backward_host(In time_decay, In time_first, In k, In v, In r,
                                           MaybeIn reset, In checkpoints, MaybeIn g, MaybeIn ga,
                                           MaybeIn gb) {
  Wkv4GateTensors gate;
  auto [g_decay, g_first, gk, gv, ga_0, gb_0, gp_0] = run_wkv4_backward(
      HostLaunch(), {time_decay, time_first, k, v, reset, &r}, checkpoints, g, ga, gb, &gate);
  return {g_decay, g_first, gk, gv, gate.gr, ga_0, gb_0, gp_0, gate.out};
}

/// One thread that runs a block's indices in turn.
struct HostGroup {
  template <typename F>
  void each(int64_t n, const F& f) const {
    for (int64_t i = 0; i < n; ++i) f(i);
  }
  template <typename M, typename F>
  M sum(int64_t n, const F& f) const {
    M total = M(0);
    for (int64_t i = 0; i < n; ++i) total += f(i);
    return total;
  }
  template <typename M, typename F>
  M max(int64_t n, const F& f) const {
    M largest = f(0);
    for (int64_t i = 1; i < n; ++i) largest = f(i) > largest ? f(i) : largest;
    return largest;
  }
};

/// Blocks from the last to the first, here too.
struct HostRows {
  template <typename S>
  void run(const NormShiftMixRows<S>& args) const {
    for (int64_t i = args.B * args.T - 1; i >= 0; --i) norm_shift_mix_block(args, i, HostGroup());
  }
  template <typename S>
  void run(const NormShiftMixBackwardRows<S>& args) const {
    for (int64_t i = blocks_of_rows(args.B * args.T) - 1; i >= 0; --i) {
      norm_shift_mix_backward_block(args, i, HostGroup());
    }
  }
  template <typename S>
  void run(const CrossEntropyRows<S>& args) const {
    for (int64_t i = args.N - 1; i >= 0; --i) cross_entropy_block(args, i, HostGroup());
  }
  template <typename S>
  void run_relu_square(const ElementwiseRows<S>& args) const {
    for (int64_t i = args.n - 1; i >= 0; --i) relu_square_element(args, i);
  }
  template <typename S>
  void run_gate_residual(const ElementwiseRows<S>& args) const {
    for (int64_t i = args.n - 1; i >= 0; --i) gate_residual_element(args, i);
  }
};

// The last registration wins; LibTorch warns once about it.
TORCH_LIBRARY_IMPL(rwkv, CPU, m) {
  RowOperators<HostRows>::register_in(m);
  m.impl("wkv4", wkv4_host);
  m.impl("wkv4_train", wkv4_train_host);
  m.impl("wkv4_backward", wkv4_backward_host);
  m.impl("wkv4_gated", wkv4_gated_host);
  m.impl("wkv4_gated_train", wkv4_gated_train_host);
  m.impl("wkv4_gated_backward", wkv4_gated_backward_host);
}

}  // namespace
}  // namespace rwkv::ops
