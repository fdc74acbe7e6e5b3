#pragma once

#include <cstdint>

#include "cuda/rows.h"
#include "cuda/wkv4_step.h"

// What one block of threads of the CUDA kernels does for the operators that work on rows. As
// wkv4_thread.h, nothing here needs a CUDA header. A body sees its block as a `Group`:
//   group.each(n, f)    calls f(i) for i in 0..n-1; every i runs on the same thread in each call,
//   so
//                       what f(i) wrote a later f(i) may read, and nobody else's
//   group.sum<M>(n, f)  the sum of f(i) in an order that depends on n alone, for all threads;
//   group.max<M>(n, f)  likewise the largest f(i), n >= 1
// On a GPU (rows_cuda.cu) threads share the indices out and meet in shared memory; in the tests one
// thread runs them in turn.

namespace rwkv::ops {

/// Arguments of norm_shift_mix; all arrays are contiguous. S: storage type.
template <typename S>
struct NormShiftMixRows {
  using M = WkvMath<S>;

  int64_t B, T, C, mixes;
  M eps;
  const S *x, *delta, *previous;  ///< delta, previous: may be null
  const bool* reset;              ///< may be null
  const M *weight, *bias;
  const M* mix[kMaxMixes];
  S *sum, *last;  ///< sum: null without delta
  S* mixed[kMaxMixes];
  M *mean, *rstd;
};

/// x + delta, rounded as it is stored.
template <typename S>
WKV_HD inline WkvMath<S> summed(const NormShiftMixRows<S>& args, int64_t at) {
  using M = WkvMath<S>;
  const M x = static_cast<M>(args.x[at]);
  if (args.delta == nullptr) return x;
  return static_cast<M>(static_cast<S>(x + static_cast<M>(args.delta[at])));
}

template <typename S, typename Group>
WKV_HD inline RowMoments<WkvMath<S>> moments_of(const NormShiftMixRows<S>& args, int64_t token,
                                                const Group& group) {
  using M = WkvMath<S>;
  const int64_t at = token * args.C;
  const M mean = group.template sum<M>(args.C, [&](int64_t c) { return summed(args, at + c); }) /
                 static_cast<M>(args.C);
  const M squares = group.template sum<M>(args.C, [&](int64_t c) {
    const M d = summed(args, at + c) - mean;
    return d * d;
  });
  return {mean, M(1) / std::sqrt(squares / static_cast<M>(args.C) + args.eps)};
}

/// The forward of one token. The norm of the token before it is computed once more: its row is in
/// the cache, and tokens need not wait for each other.
template <typename S, typename Group>
WKV_HD inline void norm_shift_mix_block(const NormShiftMixRows<S>& args, int64_t token,
                                        const Group& group) {
  using M = WkvMath<S>;
  const int64_t b = token / args.T, t = token % args.T, at = token * args.C;
  const RowMoments<M> here = moments_of(args, token, group);
  RowMoments<M> before{M(0), M(0)};
  if (t > 0) before = moments_of(args, token - 1, group);
  const bool reset = args.reset != nullptr && args.reset[token];
  group.each(args.C, [&](int64_t c) {
    const M x = summed(args, at + c);
    const M z = (x - here.mean) * here.rstd * args.weight[c] + args.bias[c];
    M shifted = M(0);
    if (!reset && t > 0) {
      shifted = (summed(args, at - args.C + c) - before.mean) * before.rstd * args.weight[c] +
                args.bias[c];
    } else if (!reset && args.previous != nullptr) {
      shifted = static_cast<M>(args.previous[b * args.C + c]);
    }
    for (int64_t i = 0; i < args.mixes; ++i) {
      args.mixed[i][at + c] = static_cast<S>(shifted + args.mix[i][c] * (z - shifted));
    }
    if (args.sum != nullptr) args.sum[at + c] = static_cast<S>(x);
    if (t == args.T - 1) args.last[b * args.C + c] = static_cast<S>(z);
    if (c == 0) {
      args.mean[token] = here.mean;
      args.rstd[token] = here.rstd;
    }
  });
}

/// Tokens whose parameter gradients one block sums.
inline constexpr int64_t kRowsOfBlock = 16;

/// Arguments of norm_shift_mix_backward.
template <typename S>
struct NormShiftMixBackwardRows {
  using M = WkvMath<S>;

  int64_t B, T, C, mixes;
  const S *sum, *previous;
  const bool* reset;
  const M *weight, *bias, *mean, *rstd;
  const M* mix[kMaxMixes];
  const S* g_mixed[kMaxMixes];
  const S *g_sum, *g_last;  ///< may be null
  S *gx, *g_previous;       ///< g_previous: null without previous
  S* mixed[kMaxMixes];
  M* partial;  ///< (blocks, 2 + mixes, C), zeros on entry: weight, bias and the mixes
};

template <typename S>
WKV_HD inline WkvMath<S> normed(const NormShiftMixBackwardRows<S>& args, int64_t token, int64_t c) {
  using M = WkvMath<S>;
  const M x = static_cast<M>(args.sum[token * args.C + c]);
  return (x - args.mean[token]) * args.rstd[token] * args.weight[c] + args.bias[c];
}

/// What token's mixes pass back to the token before it.
template <typename S>
WKV_HD inline WkvMath<S> passed_back(const NormShiftMixBackwardRows<S>& args, int64_t token,
                                     int64_t c) {
  using M = WkvMath<S>;
  if (args.reset != nullptr && args.reset[token]) return M(0);
  M g = M(0);
  for (int64_t i = 0; i < args.mixes; ++i) {
    g += (M(1) - args.mix[i][c]) * static_cast<M>(args.g_mixed[i][token * args.C + c]);
  }
  return g;
}

/// dL/dz of a token.
template <typename S>
WKV_HD inline WkvMath<S> gradient_of_z(const NormShiftMixBackwardRows<S>& args, int64_t token,
                                       int64_t c) {
  using M = WkvMath<S>;
  M g = M(0);
  for (int64_t i = 0; i < args.mixes; ++i) {
    g += args.mix[i][c] * static_cast<M>(args.g_mixed[i][token * args.C + c]);
  }
  const bool last = token % args.T == args.T - 1;
  if (!last) return g + passed_back(args, token + 1, c);
  if (args.g_last == nullptr) return g;
  return g + static_cast<M>(args.g_last[token / args.T * args.C + c]);
}

/// The backward of one token; `partial` are the sums of its block.
template <typename S, typename Group>
WKV_HD inline void norm_shift_mix_backward_token(const NormShiftMixBackwardRows<S>& args,
                                                 int64_t token, WkvMath<S>* partial,
                                                 const Group& group) {
  using M = WkvMath<S>;
  const int64_t b = token / args.T, t = token % args.T, at = token * args.C, C = args.C;
  const M mean = args.mean[token], rstd = args.rstd[token];
  const auto hat = [&](int64_t c) { return (static_cast<M>(args.sum[at + c]) - mean) * rstd; };
  const auto g_hat = [&](int64_t c) { return gradient_of_z(args, token, c) * args.weight[c]; };
  const M mean_g = group.template sum<M>(C, g_hat) / static_cast<M>(C);
  const M mean_gx =
      group.template sum<M>(C, [&](int64_t c) { return g_hat(c) * hat(c); }) / static_cast<M>(C);
  const bool reset = args.reset != nullptr && args.reset[token];
  group.each(C, [&](int64_t c) {
    const M gz = gradient_of_z(args, token, c);
    M gx = (gz * args.weight[c] - mean_g - hat(c) * mean_gx) * rstd;
    if (args.g_sum != nullptr) gx += static_cast<M>(args.g_sum[at + c]);
    args.gx[at + c] = static_cast<S>(gx);
    partial[c] += gz * hat(c);
    partial[C + c] += gz;
    const M z = normed(args, token, c);
    M shifted = M(0);
    if (!reset && t > 0) {
      shifted = normed(args, token - 1, c);
    } else if (!reset && args.previous != nullptr) {
      shifted = static_cast<M>(args.previous[b * C + c]);
    }
    for (int64_t i = 0; i < args.mixes; ++i) {
      partial[(2 + i) * C + c] += static_cast<M>(args.g_mixed[i][at + c]) * (z - shifted);
      args.mixed[i][at + c] = static_cast<S>(shifted + args.mix[i][c] * (z - shifted));
    }
    if (t == 0 && args.g_previous != nullptr) {
      args.g_previous[b * C + c] = static_cast<S>(passed_back(args, token, c));
    }
  });
}

/// The backward of kRowsOfBlock tokens, in turn.
template <typename S, typename Group>
WKV_HD inline void norm_shift_mix_backward_block(const NormShiftMixBackwardRows<S>& args,
                                                 int64_t block, const Group& group) {
  WkvMath<S>* const partial = args.partial + block * (2 + args.mixes) * args.C;
  for (int64_t i = 0; i < kRowsOfBlock; ++i) {
    const int64_t token = block * kRowsOfBlock + i;
    if (token < args.B * args.T) norm_shift_mix_backward_token(args, token, partial, group);
  }
}

inline int64_t blocks_of_rows(int64_t rows) { return (rows + kRowsOfBlock - 1) / kRowsOfBlock; }

/// Arguments of cross_entropy_rows_: logits (N, V).
template <typename S>
struct CrossEntropyRows {
  using M = WkvMath<S>;

  int64_t N, V;
  S* logits;
  const int64_t* targets;
  const M* weights;
  M l2wrap;
  bool gradient;
  M* losses;
};

/// One row. A target outside 0..V-1 makes its loss NaN and touches nothing else: a GPU cannot say
/// which one it was.
template <typename S, typename Group>
WKV_HD inline void cross_entropy_block(const CrossEntropyRows<S>& args, int64_t n,
                                       const Group& group) {
  using M = WkvMath<S>;
  S* const row = args.logits + n * args.V;
  const int64_t target = args.targets[n];
  const bool valid = target >= 0 && target < args.V;
  const M own = valid ? static_cast<M>(row[target]) : M(0);
  const M max = group.template max<M>(args.V, [&](int64_t v) { return static_cast<M>(row[v]); });
  // The first largest one is the largest of -v; exact, because v < 2^24 or M is double.
  M first = M(0);
  if (args.gradient && args.l2wrap != 0) {
    first = -group.template max<M>(args.V, [&](int64_t v) {
      return static_cast<M>(row[v]) == max ? -static_cast<M>(v) : -static_cast<M>(args.V);
    });
  }
  const M total = group.template sum<M>(
      args.V, [&](int64_t v) { return exp_nonpositive(static_cast<M>(row[v]) - max); });
  const M weight = args.weights[n], scale = weight / total;
  group.each(args.V, [&](int64_t v) {
    if (v == 0) args.losses[n] = valid ? max - own + std::log(total) : M(NAN);
    if (!args.gradient) return;
    M g = exp_nonpositive(static_cast<M>(row[v]) - max) * scale;
    if (v == target) g -= weight;
    if (args.l2wrap != 0 && static_cast<M>(v) == first) g += args.l2wrap * max;
    row[v] = static_cast<S>(g);
  });
}

/// Arguments of relu_square and its backward, of gate_residual and its backward.
template <typename S>
struct ElementwiseRows {
  int64_t n;
  const S *x, *r, *v;
  S *g, *out, *gr, *gv;
};

template <typename S>
WKV_HD inline void relu_square_element(const ElementwiseRows<S>& args, int64_t i) {
  using M = WkvMath<S>;
  const M x = static_cast<M>(args.x[i]);
  const M h = x < 0 ? M(0) : x;
  args.out[i] = static_cast<S>(h * h);
  if (args.g != nullptr) args.g[i] = static_cast<S>((h + h) * static_cast<M>(args.g[i]));
}

/// With gr: the backward, whose x is the gradient of out.
template <typename S>
WKV_HD inline void gate_residual_element(const ElementwiseRows<S>& args, int64_t i) {
  using M = WkvMath<S>;
  const M x = static_cast<M>(args.x[i]), v = static_cast<M>(args.v[i]);
  const M s = wkv_sigmoid(static_cast<M>(args.r[i]));
  if (args.gr == nullptr) {
    args.out[i] = static_cast<S>(x + s * v);
  } else {
    args.gv[i] = static_cast<S>(x * s);
    args.gr[i] = static_cast<S>(x * s * (M(1) - s) * v);
  }
}

}  // namespace rwkv::ops
