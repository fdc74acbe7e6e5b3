#include "cuda/cross_entropy.h"

#include <ATen/ATen.h>
#include <torch/library.h>

#include <algorithm>

#include "cuda/elementwise.h"
#include "cuda/rows_cpu.h"
#include "cuda/wkv4.h"
#include "cuda/wkv4_cpu.h"

namespace rwkv::ops {

TORCH_LIBRARY_FRAGMENT(rwkv, m) {
  m.def(
      "cross_entropy_rows_(Tensor(a!) logits, Tensor targets, Tensor weights, float l2wrap, bool "
      "gradient) -> Tensor");
}

using In = const at::Tensor&;

at::Tensor cross_entropy_rows_(In logits, In targets, In weights, double l2wrap, bool gradient) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("rwkv::cross_entropy_rows_", "")
                             .typed<at::Tensor(at::Tensor, In, In, double, bool)>();
  return op.call(logits, targets, weights, l2wrap, gradient);
}

void check_cross_entropy_rows(In logits, In targets, In weights) {
  check_elementwise("cross_entropy_rows", logits);
  TORCH_CHECK(logits.dim() == 2 && logits.size(1) > 0 && logits.is_contiguous(),
              "cross_entropy_rows: logits must be (N, V) and contiguous, got ", logits.sizes(),
              " with strides ", logits.strides());
  TORCH_CHECK(targets.sizes() == logits.sizes().slice(0, 1) && targets.scalar_type() == at::kLong,
              "cross_entropy_rows: targets must be int64 of shape ", logits.sizes().slice(0, 1),
              ", got ", targets.scalar_type(), " of ", targets.sizes());
  const auto math = logits.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  TORCH_CHECK(weights.sizes() == targets.sizes() && weights.scalar_type() == math,
              "cross_entropy_rows: weights must be ", math, " of shape ", targets.sizes(), ", got ",
              weights.scalar_type(), " of ", weights.sizes());
  TORCH_CHECK(targets.device() == logits.device() && weights.device() == logits.device(),
              "cross_entropy_rows: logits are on ", logits.device(), ", targets on ",
              targets.device(), ", weights on ", weights.device());
}

namespace {

/// For devices without a kernel of ours: composed of LibTorch's operators.
at::Tensor cross_entropy_rows_composed(at::Tensor logits, In targets, In weights, double l2wrap,
                                       bool gradient) {
  check_cross_entropy_rows(logits, targets, weights);
  const at::Tensor log_p = at::log_softmax(logits, 1, weights.scalar_type());
  const at::Tensor target = targets.unsqueeze(1);
  at::Tensor loss = -log_p.gather(1, target).squeeze(1);
  if (!gradient) return loss;
  at::Tensor g = log_p.exp().mul_(weights.unsqueeze(1));
  g.scatter_add_(1, target, -weights.unsqueeze(1));
  if (l2wrap != 0) {
    const auto [value, index] = logits.max(1, /*keepdim=*/true);
    g.scatter_add_(1, index, value.to(g.scalar_type()) * l2wrap);
  }
  logits.copy_(g);
  return loss;
}

template <typename S>
void run_rows(at::Tensor& logits, const int64_t* targets, const RowMath<S>* weights, double l2wrap,
              bool gradient, RowMath<S>* losses) {
  using T = RowMath<S>;
  const int64_t V = logits.size(1);
  S* const all = logits.mutable_data_ptr<S>();
  const int64_t grain = std::max<int64_t>(1, 8192 / V);
  parallel_pieces(logits.size(0), grain, [&](int64_t begin, int64_t end) {
    StagedRow<S> row(V);
    for (int64_t n = begin; n < end; ++n) {
      row.read(all + n * V);
      losses[n] = row_kernels<T>().cross_entropy({.size = V,
                                                  .target = targets[n],
                                                  .weight = weights[n],
                                                  .l2wrap = static_cast<T>(l2wrap),
                                                  .gradient = gradient,
                                                  .logits = row.target(all + n * V)});
      if (gradient) row.write(all + n * V);
    }
  });
}

at::Tensor cross_entropy_rows_cpu(at::Tensor logits, In targets, In weights, double l2wrap,
                                  bool gradient) {
  check_cross_entropy_rows(logits, targets, weights);
  const at::Tensor target = targets.contiguous(), weight = weights.contiguous();
  const int64_t* const first = target.const_data_ptr<int64_t>();
  for (int64_t n = 0; n < target.numel(); ++n) {
    TORCH_CHECK_INDEX(first[n] >= 0 && first[n] < logits.size(1), "cross_entropy_rows: target ",
                      first[n], " of row ", n, " is not in 0..", logits.size(1) - 1);
  }
  const at::Tensor losses = at::empty(weight.sizes(), weight.options());
  with_storage_type(logits.scalar_type(), [&]<typename S>(std::type_identity<S>) {
    using T = RowMath<S>;
    run_rows<S>(logits, first, weight.const_data_ptr<T>(), l2wrap, gradient,
                losses.mutable_data_ptr<T>());
  });
  return losses;
}

at::Tensor cross_entropy_rows_meta(at::Tensor logits, In targets, In weights, double, bool) {
  check_cross_entropy_rows(logits, targets, weights);
  return at::empty(weights.sizes(), weights.options());
}

TORCH_LIBRARY_IMPL(rwkv, CompositeExplicitAutograd, m) {
  m.impl("cross_entropy_rows_", cross_entropy_rows_composed);
}
TORCH_LIBRARY_IMPL(rwkv, Meta, m) { m.impl("cross_entropy_rows_", cross_entropy_rows_meta); }
TORCH_LIBRARY_IMPL(rwkv, CPU, m) { m.impl("cross_entropy_rows_", cross_entropy_rows_cpu); }

}  // namespace
}  // namespace rwkv::ops
