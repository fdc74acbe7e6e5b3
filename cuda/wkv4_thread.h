#pragma once

#include <cstdint>

#include "cuda/wkv4_step.h"

// What one thread of the CUDA kernels of WKV-4 does. Nothing here needs a CUDA header: nvcc
// compiles these templates for the GPU, and the tests compile them with the host's compiler and
// call them for every block and thread in turn.
//
// A thread owns one (batch row, channel), a block kWkvBlockThreads neighbours of the flat (B, C),
// so that a warp reads a contiguous piece of each row. Threads share nothing and meet at no
// barrier. `S` is the storage type of k, v, y and their gradients (float, double, c10::BFloat16,
// c10::Half), WkvMath<S> that of everything else.

#if defined(__CUDA_ARCH__)
#define WKV_UNROLL _Pragma("unroll")
#else
#define WKV_UNROLL
#endif

namespace rwkv::ops {

/// Two warps: B * C is small, and small blocks spread over more multiprocessors.
inline constexpr int kWkvBlockThreads = 64;
/// Tokens between two checkpoints of the CUDA kernels. Loops over them are unrolled and what they
/// keep stays in registers: 16 is the most that sm_80 and sm_90 hold without spilling.
inline constexpr int kWkvChunkTokens = 16;

/// Sizes; `chunks` is ceil(T / kWkvChunkTokens), at least 1.
struct WkvSizes {
  int64_t B, T, C, chunks;
};

/// Arguments of the forward. Everything is contiguous and on one device.
template <typename S>
struct WkvForwardArguments {
  using M = WkvMath<S>;

  WkvSizes sizes;
  const M *time_decay, *time_first;  ///< (C), the raw parameters
  const S *k, *v;                    ///< (B, T, C)
  const S* r;                        ///< (B, T, C), gates the output; null where it is not gated
  const bool* reset;                 ///< (B, T); null when no token starts a document
  const M *a_0, *b_0, *p_0;          ///< (B, C); null when nothing was seen before
  S* y;                              ///< (B, T, C)
  M *a, *b, *p;                      ///< (B, C), the state after the last token
  M* checkpoints;                    ///< (B, chunks, 5, C); null unless training
};

/// Arguments of the backward.
template <typename S>
struct WkvBackwardArguments {
  using M = WkvMath<S>;

  WkvSizes sizes;
  const M *time_decay, *time_first;
  const S *k, *v, *r;
  const bool* reset;
  const M* checkpoints;   ///< of the forward
  const S* gy;            ///< (B, T, C)
  const M *ga, *gb;       ///< (B, C); null when the final state has no gradient
  S *gk, *gv;             ///< (B, T, C)
  S *gr, *out;            ///< (B, T, C), gradient of r and the gated output; null without r
  M *ga_0, *gb_0, *gp_0;  ///< (B, C), gradients of the given state
  M *gw, *gu;             ///< (B, C), summed over the tokens of each row
};

/// Arguments of the sum over rows that ends the backward.
template <typename M>
struct WkvSumArguments {
  int64_t B, C;
  const M* time_decay;
  const M *gw, *gu;                              ///< (B, C), of the backward
  M *time_decay_gradient, *time_first_gradient;  ///< (C)
};

/// Blocks that cover `threads` threads.
inline int64_t wkv_blocks(int64_t threads) {
  return (threads + kWkvBlockThreads - 1) / kWkvBlockThreads;
}

/// Where a thread works: its channel and row, and one chunk of it.
struct WkvPlace {
  int64_t b, c;
  int64_t t;   ///< first token of the chunk
  int tokens;  ///< of the chunk, at most kWkvChunkTokens
  int64_t at;  ///< element (b, t, c) of (B, T, C)
};

WKV_HD inline WkvPlace wkv_place(const WkvSizes& sizes, int64_t i, int64_t chunk) {
  const int64_t b = i / sizes.C, c = i % sizes.C, t = chunk * kWkvChunkTokens;
  const int64_t left = sizes.T - t;
  const int tokens = left < kWkvChunkTokens ? static_cast<int>(left) : kWkvChunkTokens;
  return {b, c, t, tokens, (b * sizes.T + t) * sizes.C + c};
}

/// k, v or gy of one chunk of one channel: row t is [t], for t below place.tokens. All loads are
/// under way before the first is used, and the rows stay in registers.
template <typename S>
class WkvChunk {
 public:
  using M = WkvMath<S>;

  WKV_HD WkvChunk(const S* from, const WkvPlace& place, int64_t C) {
    WKV_UNROLL for (int t = 0; t < kWkvChunkTokens; ++t) {
      rows_[t] = t < place.tokens ? static_cast<M>(from[place.at + t * C]) : M(0);
    }
  }
  WKV_HD M operator[](int t) const { return rows_[t]; }

 private:
  M rows_[kWkvChunkTokens];
};

/// Doubles take two registers each, too many to keep: they are read where they are used.
template <>
class WkvChunk<double> {
 public:
  WKV_HD WkvChunk(const double* from, const WkvPlace& place, int64_t C)
      : from_(from), at_(place.at), C_(C) {}
  WKV_HD double operator[](int t) const { return from_[at_ + t * C_]; }

 private:
  const double* from_;
  int64_t at_, C_;
};

/// Bit i is set where token i of the chunk starts a new document.
WKV_HD inline uint32_t wkv_load_resets(const bool* reset, const WkvPlace& place, int64_t T) {
  if (reset == nullptr) return 0;
  uint32_t bits = 0;
  WKV_UNROLL for (int i = 0; i < kWkvChunkTokens; ++i) {
    if (i < place.tokens && reset[place.b * T + place.t + i]) bits |= uint32_t{1} << i;
  }
  return bits;
}

WKV_HD inline bool wkv_is_reset(uint32_t resets, int i) { return ((resets >> i) & 1U) != 0; }

/// First of the five rows of a checkpoint, at the thread's channel.
WKV_HD inline int64_t wkv_checkpoint_at(const WkvSizes& sizes, const WkvPlace& place,
                                        int64_t chunk) {
  return (place.b * sizes.chunks + chunk) * 5 * sizes.C + place.c;
}

template <typename M>
WKV_HD inline WkvSums<M> wkv_load_checkpoint(const M* from, int64_t C) {
  return {from[0], from[C], from[2 * C], from[3 * C], from[4 * C]};
}

template <typename M>
WKV_HD inline void wkv_store_checkpoint(const WkvSums<M>& sums, M* to, int64_t C) {
  to[0] = sums.a;
  to[C] = sums.b;
  to[2 * C] = sums.p;
  to[3 * C] = sums.da;
  to[4 * C] = sums.db;
}

/// The forward of one (batch row, channel). `Training` writes the checkpoints.
template <bool Training, typename S>
WKV_HD inline void wkv_forward_thread(const WkvForwardArguments<S>& args, int64_t block,
                                      int thread) {
  using M = WkvMath<S>;
  const WkvSizes& sizes = args.sizes;
  const int64_t i = block * kWkvBlockThreads + thread;
  if (i >= sizes.B * sizes.C) return;
  const M w = wkv_decay(args.time_decay[i % sizes.C]);
  const M u = args.time_first[i % sizes.C];
  WkvSums<M> sums = WkvSums<M>::empty();
  if (args.a_0 != nullptr) sums = {args.a_0[i], args.b_0[i], args.p_0[i], M(0), M(0)};

  for (int64_t chunk = 0; chunk < sizes.chunks; ++chunk) {
    const WkvPlace place = wkv_place(sizes, i, chunk);
    if constexpr (Training) {
      wkv_store_checkpoint(sums, args.checkpoints + wkv_checkpoint_at(sizes, place, chunk),
                           sizes.C);
    }
    const WkvChunk<S> k(args.k, place, sizes.C), v(args.v, place, sizes.C);
    const uint32_t resets = wkv_load_resets(args.reset, place, sizes.T);
    WKV_UNROLL for (int t = 0; t < kWkvChunkTokens; ++t) {
      if (t >= place.tokens) break;
      if (wkv_is_reset(resets, t)) sums = WkvSums<M>::empty();
      const int64_t at = place.at + t * sizes.C;
      M y = wkv_output(sums, u, k[t], v[t]).y;
      if (args.r != nullptr) y *= wkv_sigmoid(static_cast<M>(args.r[at]));
      args.y[at] = static_cast<S>(y);
      wkv_update<Training>(sums, w, k[t], v[t]);
    }
  }
  args.a[i] = sums.a;
  args.b[i] = sums.b;
  args.p[i] = sums.p;
}

/// What the recomputed forward of a chunk keeps for the steps backwards, in registers.
template <typename M>
struct WkvKeptChunk {
  M y[kWkvChunkTokens], m[kWkvChunkTokens], q[kWkvChunkTokens], direct[kWkvChunkTokens];
};

/// The backward of one (batch row, channel): chunks from the last to the first, each run forward
/// again from its checkpoint and then token by token backwards. y is recomputed and not read: a
/// stored y may be rounded, and v - y would lose its digits.
template <typename S>
WKV_HD inline void wkv_backward_thread(const WkvBackwardArguments<S>& args, int64_t block,
                                       int thread) {
  using M = WkvMath<S>;
  const WkvSizes& sizes = args.sizes;
  const int64_t i = block * kWkvBlockThreads + thread;
  if (i >= sizes.B * sizes.C) return;
  const M w = wkv_decay(args.time_decay[i % sizes.C]);
  const M u = args.time_first[i % sizes.C];
  WkvAdjoint<M> adjoint = WkvAdjoint<M>::empty();
  WkvParameterGradient<M> total{M(0), M(0)};

  for (int64_t chunk = sizes.chunks - 1; chunk >= 0; --chunk) {
    const WkvPlace place = wkv_place(sizes, i, chunk);
    const WkvChunk<S> k(args.k, place, sizes.C), v(args.v, place, sizes.C);
    const WkvChunk<S> gy(args.gy, place, sizes.C);
    WkvKeptChunk<M> kept;
    const uint32_t resets = wkv_load_resets(args.reset, place, sizes.T);
    WkvSums<M> sums =
        wkv_load_checkpoint(args.checkpoints + wkv_checkpoint_at(sizes, place, chunk), sizes.C);
    WKV_UNROLL for (int t = 0; t < kWkvChunkTokens; ++t) {
      if (t >= place.tokens) break;
      if (wkv_is_reset(resets, t)) sums = WkvSums<M>::empty();
      const WkvOutput<M> out = wkv_output(sums, u, k[t], v[t]);
      kept.y[t] = out.y;
      kept.m[t] = out.m;
      M g = gy[t];
      if (args.r != nullptr) {
        const int64_t at = place.at + t * sizes.C;
        const WkvGate<M> gate = wkv_gate_backward(static_cast<M>(args.r[at]), out.y, g);
        args.out[at] = static_cast<S>(gate.out);
        args.gr[at] = static_cast<S>(gate.gr);
        g *= gate.s;
      }
      kept.q[t] = g * out.inv_den;
      kept.direct[t] = kept.q[t] * out.token;
      const auto gradient = wkv_parameter_gradient(sums, out, kept.q[t], kept.direct[t], v[t]);
      total.w += gradient.w;
      total.u += gradient.u;
      wkv_update<true>(sums, w, k[t], v[t]);
    }
    if (chunk == sizes.chunks - 1 && args.ga != nullptr) {
      // The sums after the last token have gradients of their own, on their own scale.
      adjoint = {args.ga[i], args.gb[i], -sums.p};
      total.w += adjoint.x * sums.da + adjoint.z * sums.db;
    }
    WKV_UNROLL for (int t = kWkvChunkTokens - 1; t >= 0; --t) {
      if (t >= place.tokens) continue;
      const int64_t at = place.at + t * sizes.C;
      const auto gradient = wkv_backward_step(adjoint, w, k[t], v[t], kept.y[t], kept.m[t],
                                              kept.q[t], kept.direct[t]);
      if (wkv_is_reset(resets, t)) adjoint = WkvAdjoint<M>::empty();
      args.gk[at] = static_cast<S>(gradient.k);
      args.gv[at] = static_cast<S>(gradient.v);
    }
  }
  const M* start = args.checkpoints + wkv_checkpoint_at(sizes, wkv_place(sizes, i, 0), 0);
  const auto gradient = wkv_sums_gradient(adjoint, start[0], start[sizes.C], start[2 * sizes.C]);
  args.ga_0[i] = gradient.a;
  args.gb_0[i] = gradient.b;
  args.gp_0[i] = gradient.p;
  args.gw[i] = total.w;
  args.gu[i] = total.u;
}

/// Sums the gradients of one channel's parameters over the rows, always in the order of b: two runs
/// agree to the last bit, which atomic additions would not.
template <typename M>
WKV_HD inline void wkv_sum_thread(const WkvSumArguments<M>& args, int64_t block, int thread) {
  const int64_t c = block * kWkvBlockThreads + thread;
  if (c >= args.C) return;
  M gw = 0, gu = 0;
  for (int64_t b = 0; b < args.B; ++b) {
    gw += args.gw[b * args.C + c];
    gu += args.gu[b * args.C + c];
  }
  args.time_decay_gradient[c] = gw * wkv_decay(args.time_decay[c]);  // dw/d(time_decay) = w
  args.time_first_gradient[c] = gu;
}

}  // namespace rwkv::ops
