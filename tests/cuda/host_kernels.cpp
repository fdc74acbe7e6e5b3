// Linked into a program of tests, this file replaces the CPU's WKV-4 kernels by the bodies of the
// CUDA kernels, called for every block and thread in turn. So the tests and golden files of the CPU
// check the CUDA bodies too, without a GPU and under the sanitizers.
#include <torch/library.h>

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

// The last registration wins; LibTorch warns once about it.
TORCH_LIBRARY_IMPL(rwkv, CPU, m) {
  m.impl("wkv4", wkv4_host);
  m.impl("wkv4_train", wkv4_train_host);
  m.impl("wkv4_backward", wkv4_backward_host);
}

}  // namespace
}  // namespace rwkv::ops
