#pragma once

#include <cstdint>

#include "cuda/wkv4_step.h"

// Loops of the WKV-4 operator over one tile: up to kWkvTileTokens tokens of up to kWkvTileChannels
// channels of one batch row. Nothing here may need the standard library: the vector builds of these
// loops must not leave weak functions with foreign instructions in the program.

namespace rwkv::ops {

/// Tokens between two checkpoints, and so the tokens that the backward recomputes at a time.
inline constexpr int64_t kWkvTileTokens = 32;
/// 64 floats are 256 bytes of each row.
inline constexpr int64_t kWkvTileChannels = 64;

/// Where the tile of the inputs lies. Element (t, c) of k, v and r is at [t * stride + c].
template <typename T>
struct WkvTileInput {
  const T* w;  ///< -exp(time_decay), per channel
  const T* u;  ///< time_first, per channel
  const T* k;
  const T* v;
  const T* r;         ///< gates the output by sigmoid(r); null where it is not gated
  const bool* reset;  ///< per token: starts a new document; null when none does
  int64_t stride;
  int64_t tokens;
  int64_t channels;
  /// Elements from this tile to the one that runs after it; 0 when there is none or it is not
  /// known.
  int64_t next;
};

/// Arrays of sums, per channel; `da` and `db` are null where derivatives are not carried.
template <typename T>
struct WkvSumsArrays {
  T *a, *b, *p, *da, *db;
};

template <typename T>
struct WkvForwardTile {
  WkvTileInput<T> in;
  T* y;                   ///< with the stride of k
  WkvSumsArrays<T> sums;  ///< before the tile on entry, after it on return
};

template <typename T>
struct WkvBackwardTile {
  WkvTileInput<T> in;
  const T* gy;                   ///< with the stride of k
  WkvSumsArrays<const T> start;  ///< checkpoint: sums before the tile
  /// Gradients of the final a and b; null unless the tile is the last one and they are given.
  const T *ga, *gb;
  T *x, *z, *o;  ///< adjoint after the tile on entry, before it on return
  T *gk, *gv;    ///< with the stride of k
  T *gr, *out;   ///< with the stride of k: gradient of r, and the gated output; null without r
  T *gw, *gu;    ///< sums over tokens, added to
};

/// How V reads and writes `count` neighbouring channels; the vector types specialise it.
template <typename V>
struct WkvLanes {
  using Scalar = V;
  static constexpr int64_t kCount = 1;
  static V load(const V* from, int64_t) { return *from; }
  static void store(V x, V* to, int64_t) { *to = x; }
};

/// Calls body(channel, count) for each vector of channels; the last one may be partly filled.
template <typename V, typename Body>
inline void wkv_each_vector(int64_t channels, Body body) {
  constexpr int64_t kLanes = WkvLanes<V>::kCount;
  int64_t c = 0;
  for (; c + kLanes <= channels; c += kLanes) body(c, kLanes);
  if (c < channels) body(c, channels - c);
}

/// Asks for the row that lies `offset` elements after `row`, in the next tile, while this one
/// computes: rows of a tile are too far apart for the processor to see a stream. Where the next
/// tile is shorter, the address may lie outside the tensor, so it is formed as a number; asking for
/// it reads nothing.
template <typename T>
inline void wkv_prefetch(const T* row, int64_t offset, int64_t channels) {
  constexpr int64_t kCacheLine = 64;
  const auto here = reinterpret_cast<uintptr_t>(row);
  const int64_t first = offset * static_cast<int64_t>(sizeof(T));
  const int64_t size = channels * static_cast<int64_t>(sizeof(T));
  for (int64_t i = 0; i < size; i += kCacheLine) {
    __builtin_prefetch(reinterpret_cast<const void*>(here + static_cast<uintptr_t>(first + i)));
  }
}

template <typename V, bool Derivatives, typename Pointers>
inline WkvSums<V> wkv_load_sums(const Pointers& from, int64_t c, int64_t count) {
  using L = WkvLanes<V>;
  WkvSums<V> sums{L::load(from.a + c, count), L::load(from.b + c, count),
                  L::load(from.p + c, count), V(0), V(0)};
  if constexpr (Derivatives) {
    sums.da = L::load(from.da + c, count);
    sums.db = L::load(from.db + c, count);
  }
  return sums;
}

template <typename V, bool Derivatives, typename T>
inline void wkv_store_sums(const WkvSums<V>& sums, const WkvSumsArrays<T>& to, int64_t c,
                           int64_t count) {
  using L = WkvLanes<V>;
  L::store(sums.a, to.a + c, count);
  L::store(sums.b, to.b + c, count);
  L::store(sums.p, to.p + c, count);
  if constexpr (Derivatives) {
    L::store(sums.da, to.da + c, count);
    L::store(sums.db, to.db + c, count);
  }
}

/// Five rows of one tile, side by side: rows of the tensors may lie a multiple of 4 KiB apart,
/// where a load waits for a store to another row.
template <typename T>
struct WkvLocalRows {
  alignas(64) T values[5][kWkvTileChannels];

  WkvSumsArrays<T> arrays() { return {values[0], values[1], values[2], values[3], values[4]}; }
};

template <typename V, bool Derivatives, typename From, typename T>
inline void wkv_copy_sums(const From& from, const WkvSumsArrays<T>& to, int64_t channels) {
  wkv_each_vector<V>(channels, [&](int64_t c, int64_t count) {
    wkv_store_sums<V, Derivatives>(wkv_load_sums<V, Derivatives>(from, c, count), to, c, count);
  });
}

/// Outputs of a tile. Time is the outer loop: the vectors of a row are independent, and their
/// chains of exponentials overlap.
template <typename V, bool Derivatives>
inline void wkv_forward_tile(const WkvForwardTile<typename WkvLanes<V>::Scalar>& tile) {
  using L = WkvLanes<V>;
  const auto& in = tile.in;
  WkvLocalRows<typename L::Scalar> local;
  const auto sums_at = local.arrays();
  wkv_copy_sums<V, Derivatives>(tile.sums, sums_at, in.channels);
  for (int64_t t = 0; t < in.tokens; ++t) {
    const int64_t row = t * in.stride;
    const bool reset = in.reset != nullptr && in.reset[t];
    if (in.next != 0) {
      wkv_prefetch(in.k + row, in.next, in.channels);
      wkv_prefetch(in.v + row, in.next, in.channels);
      if (in.r != nullptr) wkv_prefetch(in.r + row, in.next, in.channels);
    }
    wkv_each_vector<V>(in.channels, [&](int64_t c, int64_t count) {
      const V k = L::load(in.k + row + c, count);
      const V v = L::load(in.v + row + c, count);
      auto sums = reset ? WkvSums<V>::empty() : wkv_load_sums<V, Derivatives>(sums_at, c, count);
      V y = wkv_output(sums, L::load(in.u + c, count), k, v).y;
      if (in.r != nullptr) y = y * wkv_sigmoid(L::load(in.r + row + c, count));
      L::store(y, tile.y + row + c, count);
      wkv_update<Derivatives>(sums, L::load(in.w + c, count), k, v);
      wkv_store_sums<V, Derivatives>(sums, sums_at, c, count);
    });
  }
  wkv_copy_sums<V, Derivatives>(sums_at, tile.sums, in.channels);
}

/// What the recomputed forward keeps for the steps backwards (32 KiB for floats).
template <typename T>
struct WkvKept {
  alignas(64) T y[kWkvTileTokens * kWkvTileChannels];
  alignas(64) T m[kWkvTileTokens * kWkvTileChannels];
  alignas(64) T q[kWkvTileTokens * kWkvTileChannels];
  alignas(64) T direct[kWkvTileTokens * kWkvTileChannels];
};

/// Recomputes the tile's forward from its checkpoint, fills `kept` and adds to gw and gu.
/// `sums` is scratch: the checkpoint on entry, the sums after the tile on return.
template <typename V, typename T>
inline void wkv_recompute_tile(const WkvBackwardTile<T>& tile, const WkvSumsArrays<T>& sums_at,
                               WkvKept<T>& kept) {
  using L = WkvLanes<V>;
  const auto& in = tile.in;
  for (int64_t t = 0; t < in.tokens; ++t) {
    const int64_t row = t * in.stride;
    const bool reset = in.reset != nullptr && in.reset[t];
    wkv_each_vector<V>(in.channels, [&](int64_t c, int64_t count) {
      const int64_t slot = t * kWkvTileChannels + c;
      const V k = L::load(in.k + row + c, count);
      const V v = L::load(in.v + row + c, count);
      auto sums = reset ? WkvSums<V>::empty() : wkv_load_sums<V, true>(sums_at, c, count);
      const WkvOutput<V> out = wkv_output(sums, L::load(in.u + c, count), k, v);
      V gy = L::load(tile.gy + row + c, count);
      if (in.r != nullptr) {
        const auto gate = wkv_gate_backward(L::load(in.r + row + c, count), out.y, gy);
        L::store(gate.out, tile.out + row + c, count);
        L::store(gate.gr, tile.gr + row + c, count);
        gy = gy * gate.s;
      }
      const V q = gy * out.inv_den;
      const V direct = q * out.token;
      L::store(out.y, kept.y + slot, count);
      L::store(out.m, kept.m + slot, count);
      L::store(q, kept.q + slot, count);
      L::store(direct, kept.direct + slot, count);
      const auto gradient = wkv_parameter_gradient(sums, out, q, direct, v);
      L::store(L::load(tile.gw + c, count) + gradient.w, tile.gw + c, count);
      L::store(L::load(tile.gu + c, count) + gradient.u, tile.gu + c, count);
      wkv_update<true>(sums, L::load(in.w + c, count), k, v);
      wkv_store_sums<V, true>(sums, sums_at, c, count);
    });
  }
}

/// The last tile's adjoint starts from the gradients of the final sums, on their own scale.
template <typename V, typename T>
inline void wkv_start_adjoint(const WkvBackwardTile<T>& tile, const WkvSumsArrays<T>& final_at) {
  using L = WkvLanes<V>;
  wkv_each_vector<V>(tile.in.channels, [&](int64_t c, int64_t count) {
    const auto sums = wkv_load_sums<V, true>(final_at, c, count);
    const V ga = L::load(tile.ga + c, count);
    const V gb = L::load(tile.gb + c, count);
    L::store(ga, tile.x + c, count);
    L::store(gb, tile.z + c, count);
    L::store(-sums.p, tile.o + c, count);
    L::store(L::load(tile.gw + c, count) + ga * sums.da + gb * sums.db, tile.gw + c, count);
  });
}

/// The steps backwards over the tile, once `kept` is filled.
template <typename V, typename T>
inline void wkv_reverse_tile(const WkvBackwardTile<T>& tile, const WkvKept<T>& kept) {
  using L = WkvLanes<V>;
  const auto& in = tile.in;
  for (int64_t t = in.tokens - 1; t >= 0; --t) {
    const int64_t row = t * in.stride;
    const bool reset = in.reset != nullptr && in.reset[t];
    if (in.next != 0) {
      wkv_prefetch(in.k + row, in.next, in.channels);
      wkv_prefetch(in.v + row, in.next, in.channels);
      wkv_prefetch(tile.gy + row, in.next, in.channels);
      if (in.r != nullptr) wkv_prefetch(in.r + row, in.next, in.channels);
    }
    wkv_each_vector<V>(in.channels, [&](int64_t c, int64_t count) {
      const int64_t slot = t * kWkvTileChannels + c;
      WkvAdjoint<V> adjoint{L::load(tile.x + c, count), L::load(tile.z + c, count),
                            L::load(tile.o + c, count)};
      const auto gradient =
          wkv_backward_step(adjoint, L::load(in.w + c, count), L::load(in.k + row + c, count),
                            L::load(in.v + row + c, count), L::load(kept.y + slot, count),
                            L::load(kept.m + slot, count), L::load(kept.q + slot, count),
                            L::load(kept.direct + slot, count));
      if (reset) adjoint = WkvAdjoint<V>::empty();
      L::store(gradient.k, tile.gk + row + c, count);
      L::store(gradient.v, tile.gv + row + c, count);
      L::store(adjoint.x, tile.x + c, count);
      L::store(adjoint.z, tile.z + c, count);
      L::store(adjoint.o, tile.o + c, count);
    });
  }
}

/// Gradients of a tile: forward again from the checkpoint, then token by token backwards. y is
/// recomputed and not read, because a stored y may be rounded and v - y would lose its digits.
template <typename V>
inline void wkv_backward_tile(const WkvBackwardTile<typename WkvLanes<V>::Scalar>& tile) {
  using L = WkvLanes<V>;
  using T = typename L::Scalar;
  const int64_t channels = tile.in.channels;
  WkvKept<T> kept;
  WkvLocalRows<T> sums, rows;
  const auto sums_at = sums.arrays();
  wkv_copy_sums<V, true>(tile.start, sums_at, channels);
  // Sums over tokens and the adjoint move to the local rows for the time of this tile.
  const WkvSumsArrays<T> home{tile.x, tile.z, tile.o, tile.gw, tile.gu};
  const auto near = rows.arrays();
  wkv_copy_sums<V, true>(home, near, channels);
  WkvBackwardTile<T> local = tile;
  local.x = near.a;
  local.z = near.b;
  local.o = near.p;
  local.gw = near.da;
  local.gu = near.db;

  wkv_recompute_tile<V>(local, sums_at, kept);
  if (tile.ga != nullptr) wkv_start_adjoint<V>(local, sums_at);
  wkv_reverse_tile<V>(local, kept);
  wkv_copy_sums<V, true>(near, home, channels);
}

}  // namespace rwkv::ops
