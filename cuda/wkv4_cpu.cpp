#include "cuda/wkv4_cpu.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <torch/library.h>

#include <algorithm>
#include <string>
#include <type_traits>

#include "cuda/wkv4.h"
#include "cuda/wkv4_gated.h"
#include "cuda/wkv4_tile.h"
#include "cuda/wkv4_vector.h"

// WKV-4 on the CPU. Channels and batch rows never meet, so threads take pieces of (batch row, range
// of channels) and the result does not depend on their number. Within a piece the order is tile of
// tokens, then block of channels: memory is read as one stream, where the order channels first
// would touch every page once per block.

namespace rwkv::ops {

void parallel_pieces(int64_t count, int64_t grain,
                     const std::function<void(int64_t, int64_t)>& body) {
  at::parallel_for(0, count, grain, body);
}

const WkvVectorKernels& wkv_vector_kernels() {
#if defined(RWKV_X86_64)
  static const WkvVectorKernels& kernels = []() -> const WkvVectorKernels& {
    const std::string capability = at::get_cpu_capability();
    if (capability == "AVX512") return kWkvKernelsAvx512;
    if (capability == "AVX2") return kWkvKernelsAvx2;
    return kWkvKernelsDefault;
  }();
  return kernels;
#else
  return kWkvKernelsDefault;
#endif
}

const char* wkv_capability() {
#if defined(RWKV_X86_64)
  if (&wkv_vector_kernels() == &kWkvKernelsAvx512) return "AVX512";
  if (&wkv_vector_kernels() == &kWkvKernelsAvx2) return "AVX2";
#endif
  return "DEFAULT";
}

namespace {

using In = const at::Tensor&;
using MaybeIn = const OptionalTensor&;

void run_tile(const WkvForwardTile<float>& tile) {
  (tile.sums.da == nullptr ? wkv_vector_kernels().forward
                           : wkv_vector_kernels().forward_training)(tile);
}
void run_tile(const WkvForwardTile<double>& tile) {
  tile.sums.da == nullptr ? wkv_forward_tile<double, false>(tile)
                          : wkv_forward_tile<double, true>(tile);
}
void run_tile(const WkvBackwardTile<float>& tile) { wkv_vector_kernels().backward(tile); }
void run_tile(const WkvBackwardTile<double>& tile) { wkv_backward_tile<double>(tile); }

/// One tile of k, v, gy, y, gk or gv in the type of the arithmetic `T`. Where the tensor's type `S`
/// is the same, the tensor itself; a 16-bit tensor passes through a buffer that stays in the first
/// cache.
template <typename T, typename S>
class StagedTile {
 public:
  static constexpr bool kDirect = std::is_same_v<T, S>;

  static int64_t stride(int64_t C) { return kDirect ? C : kWkvTileChannels; }

  const T* load(const S* from, int64_t C, int64_t tokens, int64_t channels) {
    if constexpr (kDirect) {
      return from;
    } else {
      const auto widen =
          kIsHalf ? wkv_vector_kernels().widen_fp16 : wkv_vector_kernels().widen_bf16;
      for (int64_t t = 0; t < tokens; ++t) {
        widen(reinterpret_cast<const uint16_t*>(from + t * C), buffer_ + t * kWkvTileChannels,
              channels);
      }
      return buffer_;
    }
  }

  T* target(S* to) {
    if constexpr (kDirect) {
      return to;
    } else {
      return buffer_;
    }
  }

  void store(S* to, int64_t C, int64_t tokens, int64_t channels) const {
    if constexpr (!kDirect) {
      const auto narrow =
          kIsHalf ? wkv_vector_kernels().narrow_fp16 : wkv_vector_kernels().narrow_bf16;
      for (int64_t t = 0; t < tokens; ++t) {
        narrow(buffer_ + t * kWkvTileChannels, reinterpret_cast<uint16_t*>(to + t * C), channels);
      }
    }
  }

 private:
  static constexpr bool kIsHalf = std::is_same_v<S, at::Half>;
  static_assert(kDirect || kIsHalf || std::is_same_v<S, at::BFloat16>);

  alignas(64) T buffer_[kDirect ? 1 : kWkvTileTokens * kWkvTileChannels];
};

/// Everything a piece needs, as flat arrays; tensors outlive the run.
template <typename T, typename S>
struct Arrays {
  const Wkv4Shape& shape;
  const T *w, *u;
  const S *k, *v;
  const S* r;  ///< null where the output is not gated
  const bool* reset;
  T* checkpoints;  ///< null in a forward without training

  [[nodiscard]] WkvTileInput<T> input(int64_t b, int64_t t, int64_t c) const {
    return {.w = w + c,
            .u = u + c,
            .k = nullptr,
            .v = nullptr,
            .r = nullptr,
            .reset = reset == nullptr ? nullptr : reset + b * shape.T + t,
            .stride = StagedTile<T, S>::stride(shape.C),
            .tokens = std::min(kWkvTileTokens, shape.T - t),
            .channels = 0,
            .next = 0};
  }
  /// Checkpoint of tile `tile`, channels from c on: five rows of C.
  [[nodiscard]] WkvSumsArrays<T> checkpoint(int64_t b, int64_t tile, int64_t c) const {
    T* row = checkpoints + (b * shape.tiles + tile) * 5 * shape.C + c;
    return {row, row + shape.C, row + 2 * shape.C, row + 3 * shape.C, row + 4 * shape.C};
  }
};

template <typename T>
void copy_sums(const WkvSumsArrays<T>& from, const WkvSumsArrays<T>& to, int64_t channels) {
  std::copy_n(from.a, channels, to.a);
  std::copy_n(from.b, channels, to.b);
  std::copy_n(from.p, channels, to.p);
  std::copy_n(from.da, channels, to.da);
  std::copy_n(from.db, channels, to.db);
}

template <typename T>
WkvSumsArrays<T> offset(const WkvSumsArrays<T>& sums, int64_t by) {
  const bool derivatives = sums.da != nullptr;
  return {sums.a + by, sums.b + by, sums.p + by, derivatives ? sums.da + by : nullptr,
          derivatives ? sums.db + by : nullptr};
}

/// Channels [begin, end) of batch row b.
struct Piece {
  int64_t b, begin, end;
};

/// Calls body(piece) for all pieces, on all threads. Rows alone are pieces when they share out
/// evenly; otherwise each row is cut into ranges of channel blocks, about two pieces per thread.
template <typename Body>
void for_each_piece(const Wkv4Shape& shape, const Body& body) {
  const int64_t blocks = (shape.C + kWkvTileChannels - 1) / kWkvTileChannels;
  if (shape.B == 0 || blocks == 0) return;
  const int64_t threads = at::get_num_threads();
  const int64_t wanted = shape.B % threads == 0 ? 1 : (2 * threads + shape.B - 1) / shape.B;
  const int64_t ranges = std::clamp<int64_t>(wanted, 1, blocks);
  const int64_t width = (blocks + ranges - 1) / ranges * kWkvTileChannels;
  constexpr int64_t kElementsWorthAThread = 16384;
  const int64_t grain = std::max<int64_t>(1, kElementsWorthAThread / (width * (shape.T + 1)));
  parallel_pieces(shape.B * ranges, grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t c = i % ranges * width;
      if (c < shape.C) body(Piece{i / ranges, c, std::min(c + width, shape.C)});
    }
  });
}

/// Distance to the tile that runs after (tile, c); `step` is +1 forwards in time, -1 backwards.
/// Staged tiles are not where the loops could ask for them.
template <typename T, typename S>
int64_t distance_to_next(const Wkv4Shape& shape, const Piece& piece, int64_t tile, int64_t c,
                         int64_t step) {
  if (!StagedTile<T, S>::kDirect) return 0;
  if (c + kWkvTileChannels < piece.end) return kWkvTileChannels;
  const bool last = step > 0 ? tile + 1 == shape.tiles : tile == 0;
  return last ? 0 : step * kWkvTileTokens * shape.C - (c - piece.begin);
}

template <typename T, typename S>
void forward_piece(const Arrays<T, S>& arrays, const Piece& piece, S* y,
                   const WkvSumsArrays<T>& sums) {
  const Wkv4Shape& shape = arrays.shape;
  StagedTile<T, S> k, v, r, out;
  for (int64_t tile = 0; tile < shape.tiles; ++tile) {
    for (int64_t c = piece.begin; c < piece.end; c += kWkvTileChannels) {
      const int64_t t = tile * kWkvTileTokens;
      const int64_t at = (piece.b * shape.T + t) * shape.C + c;
      WkvTileInput<T> in = arrays.input(piece.b, t, c);
      in.channels = std::min(kWkvTileChannels, piece.end - c);
      in.next = distance_to_next<T, S>(shape, piece, tile, c, +1);
      in.k = k.load(arrays.k + at, shape.C, in.tokens, in.channels);
      in.v = v.load(arrays.v + at, shape.C, in.tokens, in.channels);
      if (arrays.r != nullptr) in.r = r.load(arrays.r + at, shape.C, in.tokens, in.channels);
      const WkvSumsArrays<T> here = offset(sums, piece.b * shape.C + c);
      if (arrays.checkpoints != nullptr) {
        copy_sums(here, arrays.checkpoint(piece.b, tile, c), in.channels);
      }
      run_tile(WkvForwardTile<T>{in, out.target(y + at), here});
      out.store(y + at, shape.C, in.tokens, in.channels);
    }
  }
}

/// Outputs of the backward, all (B, C) but gk and gv, and the gradients that enter.
template <typename T, typename S>
struct BackwardArrays {
  const S* gy;
  const T *ga, *gb;  ///< null when the final state has no gradient
  S *gk, *gv;
  S *gr, *out;  ///< null where the output is not gated
  T *x, *z, *o, *gw, *gu;
};

template <typename T, typename S>
void backward_piece(const Arrays<T, S>& arrays, const Piece& piece,
                    const BackwardArrays<T, S>& grad) {
  const Wkv4Shape& shape = arrays.shape;
  StagedTile<T, S> k, v, r, gy, gk, gv, gr, out;
  const bool gated = arrays.r != nullptr;
  for (int64_t tile = shape.tiles - 1; tile >= 0; --tile) {
    for (int64_t c = piece.begin; c < piece.end; c += kWkvTileChannels) {
      const int64_t t = tile * kWkvTileTokens;
      const int64_t at = (piece.b * shape.T + t) * shape.C + c;
      const int64_t row = piece.b * shape.C + c;
      WkvTileInput<T> in = arrays.input(piece.b, t, c);
      in.channels = std::min(kWkvTileChannels, piece.end - c);
      in.next = distance_to_next<T, S>(shape, piece, tile, c, -1);
      in.k = k.load(arrays.k + at, shape.C, in.tokens, in.channels);
      in.v = v.load(arrays.v + at, shape.C, in.tokens, in.channels);
      if (gated) in.r = r.load(arrays.r + at, shape.C, in.tokens, in.channels);
      const WkvSumsArrays<T> start = arrays.checkpoint(piece.b, tile, c);
      const bool last = tile == shape.tiles - 1 && grad.ga != nullptr;
      run_tile(WkvBackwardTile<T>{.in = in,
                                  .gy = gy.load(grad.gy + at, shape.C, in.tokens, in.channels),
                                  .start = {start.a, start.b, start.p, start.da, start.db},
                                  .ga = last ? grad.ga + row : nullptr,
                                  .gb = last ? grad.gb + row : nullptr,
                                  .x = grad.x + row,
                                  .z = grad.z + row,
                                  .o = grad.o + row,
                                  .gk = gk.target(grad.gk + at),
                                  .gv = gv.target(grad.gv + at),
                                  .gr = gated ? gr.target(grad.gr + at) : nullptr,
                                  .out = gated ? out.target(grad.out + at) : nullptr,
                                  .gw = grad.gw + row,
                                  .gu = grad.gu + row});
      gk.store(grad.gk + at, shape.C, in.tokens, in.channels);
      gv.store(grad.gv + at, shape.C, in.tokens, in.channels);
      if (!gated) continue;
      gr.store(grad.gr + at, shape.C, in.tokens, in.channels);
      out.store(grad.out + at, shape.C, in.tokens, in.channels);
    }
  }
}

template <typename T>
at::Tensor decay_of(In time_decay, at::ScalarType math) {
  at::Tensor w = time_decay.to(math).clone(at::MemoryFormat::Contiguous);
  T* values = w.mutable_data_ptr<T>();
  for (int64_t c = 0; c < w.numel(); ++c) values[c] = wkv_decay(values[c]);
  return w;
}

/// Contiguous copies of the inputs in the types that the loops read, kept alive for one run.
template <typename T, typename S>
struct Inputs {
  Wkv4Shape shape;
  at::Tensor w, u, k, v, r, reset;

  Inputs(const Wkv4Arguments& in, const Wkv4Shape& checked)
      : shape(checked),
        w(decay_of<T>(in.time_decay, checked.math)),
        u(in.time_first.to(checked.math).contiguous()),
        k(in.k.contiguous()),
        v(in.v.contiguous()),
        r(in.r != nullptr ? in.r->contiguous() : at::Tensor()),
        reset(in.reset.has_value() ? in.reset->contiguous() : at::Tensor()) {}

  [[nodiscard]] Arrays<T, S> arrays(T* checkpoints) const {
    return {shape,
            w.const_data_ptr<T>(),
            u.const_data_ptr<T>(),
            k.const_data_ptr<S>(),
            v.const_data_ptr<S>(),
            r.defined() ? r.const_data_ptr<S>() : nullptr,
            reset.defined() ? reset.const_data_ptr<bool>() : nullptr,
            checkpoints};
  }
};

struct ForwardResult {
  at::Tensor y, a, b, p, checkpoints;
};

at::Tensor own_state(MaybeIn given, const Wkv4Shape& shape, double empty, In k) {
  if (given.has_value()) return given->clone(at::MemoryFormat::Contiguous);
  return at::full(shape.state(), empty, k.options().dtype(shape.math));
}

template <typename T, typename S>
void run_forward(const Wkv4Arguments& in, const Wkv4Shape& shape, ForwardResult& out) {
  const Inputs<T, S> inputs(in, shape);
  const bool training = out.checkpoints.defined();
  at::Tensor derivatives;
  WkvSumsArrays<T> sums{out.a.mutable_data_ptr<T>(), out.b.mutable_data_ptr<T>(),
                        out.p.mutable_data_ptr<T>(), nullptr, nullptr};
  if (training) {
    derivatives = at::zeros({2, shape.B, shape.C}, out.a.options());
    sums.da = derivatives.mutable_data_ptr<T>();
    sums.db = sums.da + shape.B * shape.C;
  }
  const auto arrays = inputs.arrays(training ? out.checkpoints.mutable_data_ptr<T>() : nullptr);
  S* y = out.y.mutable_data_ptr<S>();
  for_each_piece(shape, [&](const Piece& piece) { forward_piece(arrays, piece, y, sums); });
}

ForwardResult forward(const Wkv4Arguments& in, MaybeIn a, MaybeIn b, MaybeIn p, bool training) {
  const Wkv4Shape shape = check_wkv4(in, kWkvTileTokens);
  check_wkv4_state(in, shape, a, b, p);
  ForwardResult out{at::empty(in.k.sizes(), in.k.options()), own_state(a, shape, 0, in.k),
                    own_state(b, shape, 0, in.k), own_state(p, shape, kWkvEmptyExponent, in.k),
                    at::Tensor()};
  if (training) out.checkpoints = at::empty(shape.checkpoints(), out.a.options());
  with_storage_type(in.k.scalar_type(), [&]<typename S>(std::type_identity<S>) {
    run_forward<WkvMath<S>, S>(in, shape, out);
  });
  return out;
}

/// Sums the rows of (B, C) in the order of b, so that the result depends on nothing else, and
/// scales.
template <typename T>
at::Tensor sum_rows(In partial, const T* scale, In like) {
  at::Tensor total = at::zeros({partial.size(1)}, partial.options());
  T* sum = total.mutable_data_ptr<T>();
  const T* rows = partial.const_data_ptr<T>();
  for (int64_t b = 0; b < partial.size(0); ++b, rows += partial.size(1)) {
    for (int64_t c = 0; c < partial.size(1); ++c) sum[c] += rows[c];
  }
  for (int64_t c = 0; scale != nullptr && c < partial.size(1); ++c) sum[c] *= scale[c];
  return total.to(like.scalar_type());
}

struct BackwardResult {
  at::Tensor time_decay, time_first, k, v, a, b, p;
  at::Tensor r, out;  // gated only
};

/// Turns the adjoint before the first token into gradients of the given state.
template <typename T, typename S>
void state_gradients(const Arrays<T, S>& arrays, const BackwardArrays<T, S>& adjoint, T* gp) {
  const int64_t C = arrays.shape.C;
  for (int64_t b = 0; b < arrays.shape.B; ++b) {
    const WkvSumsArrays<T> start = arrays.checkpoint(b, 0, 0);
    for (int64_t c = 0; c < C; ++c) {
      const int64_t i = b * C + c;
      const auto gradient =
          wkv_sums_gradient(WkvAdjoint<T>{adjoint.x[i], adjoint.z[i], adjoint.o[i]}, start.a[c],
                            start.b[c], start.p[c]);
      adjoint.x[i] = gradient.a;
      adjoint.z[i] = gradient.b;
      gp[i] = gradient.p;
    }
  }
}

template <typename T, typename S>
BackwardResult run_backward(const Wkv4Arguments& in, const Wkv4Shape& shape, In checkpoints, In gy,
                            In ga, In gb) {
  const Inputs<T, S> inputs(in, shape);
  const at::Tensor kept = checkpoints.contiguous();
  // The loops only read checkpoints here; the shared view type is not const.
  const auto arrays = inputs.arrays(const_cast<T*>(kept.const_data_ptr<T>()));
  const auto zeros = [&] { return at::zeros(shape.state(), kept.options()); };
  const at::Tensor x = zeros(), z = zeros(), gw = zeros(), gu = zeros(), gp = zeros();
  const at::Tensor o = at::full(shape.state(), kWkvEmptyExponent, kept.options());
  const at::Tensor gk = at::empty(in.k.sizes(), in.k.options());
  const at::Tensor gv = at::empty(in.k.sizes(), in.k.options());
  at::Tensor gr, out;
  if (in.r != nullptr) {
    gr = at::empty(in.k.sizes(), in.k.options());
    out = at::empty(in.k.sizes(), in.k.options());
  }
  const BackwardArrays<T, S> grad{.gy = gy.const_data_ptr<S>(),
                                  .ga = ga.defined() ? ga.const_data_ptr<T>() : nullptr,
                                  .gb = gb.defined() ? gb.const_data_ptr<T>() : nullptr,
                                  .gk = gk.mutable_data_ptr<S>(),
                                  .gv = gv.mutable_data_ptr<S>(),
                                  .gr = gr.defined() ? gr.mutable_data_ptr<S>() : nullptr,
                                  .out = out.defined() ? out.mutable_data_ptr<S>() : nullptr,
                                  .x = x.mutable_data_ptr<T>(),
                                  .z = z.mutable_data_ptr<T>(),
                                  .o = o.mutable_data_ptr<T>(),
                                  .gw = gw.mutable_data_ptr<T>(),
                                  .gu = gu.mutable_data_ptr<T>()};
  for_each_piece(shape, [&](const Piece& piece) { backward_piece(arrays, piece, grad); });
  state_gradients(arrays, grad, gp.mutable_data_ptr<T>());
  return {sum_rows<T>(gw, arrays.w, in.time_decay),
          sum_rows<T>(gu, nullptr, in.time_first),
          gk,
          gv,
          x,
          z,
          gp,
          gr,
          out};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> wkv4_cpu(In time_decay, In time_first,
                                                                    In k, In v, MaybeIn reset,
                                                                    MaybeIn a, MaybeIn b,
                                                                    MaybeIn p) {
  ForwardResult out = forward({time_decay, time_first, k, v, reset}, a, b, p, false);
  return {out.y, out.a, out.b, out.p};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor> wkv4_train_cpu(
    In time_decay, In time_first, In k, In v, MaybeIn reset, MaybeIn a, MaybeIn b, MaybeIn p) {
  ForwardResult out = forward({time_decay, time_first, k, v, reset}, a, b, p, true);
  return {out.y, out.a, out.b, out.p, out.checkpoints};
}

BackwardResult backward(const Wkv4Arguments& in, In checkpoints, MaybeIn gy, MaybeIn ga,
                        MaybeIn gb) {
  const Wkv4Shape shape = check_wkv4(in, kWkvTileTokens);
  check_wkv4_backward(in, shape, checkpoints, gy, ga, gb);
  const auto zeros = [&] { return at::zeros(shape.state(), checkpoints.options()); };
  const bool state = ga.has_value() || gb.has_value();
  const at::Tensor gy_rows =
      gy.has_value() ? gy->contiguous() : at::zeros(in.k.sizes(), in.k.options());
  const at::Tensor ga_rows = ga.has_value() ? ga->contiguous() : state ? zeros() : at::Tensor();
  const at::Tensor gb_rows = gb.has_value() ? gb->contiguous() : state ? zeros() : at::Tensor();
  BackwardResult out;
  with_storage_type(in.k.scalar_type(), [&]<typename S>(std::type_identity<S>) {
    out = run_backward<WkvMath<S>, S>(in, shape, checkpoints, gy_rows, ga_rows, gb_rows);
  });
  return out;
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor>
wkv4_backward_cpu(In time_decay, In time_first, In k, In v, MaybeIn reset, In checkpoints,
                  MaybeIn gy, MaybeIn ga, MaybeIn gb) {
  BackwardResult out = backward({time_decay, time_first, k, v, reset}, checkpoints, gy, ga, gb);
  return {out.time_decay, out.time_first, out.k, out.v, out.a, out.b, out.p};
}

Wkv4GatedForward wkv4_gated_cpu(In time_decay, In time_first, In k, In v, In r, MaybeIn reset,
                                MaybeIn a, MaybeIn b, MaybeIn p) {
  ForwardResult out = forward({time_decay, time_first, k, v, reset, &r}, a, b, p, false);
  return {out.y, out.a, out.b, out.p};
}

Wkv4GatedTrain wkv4_gated_train_cpu(In time_decay, In time_first, In k, In v, In r, MaybeIn reset,
                                    MaybeIn a, MaybeIn b, MaybeIn p) {
  ForwardResult out = forward({time_decay, time_first, k, v, reset, &r}, a, b, p, true);
  return {out.y, out.a, out.b, out.p, out.checkpoints};
}

Wkv4GatedBackward wkv4_gated_backward_cpu(In time_decay, In time_first, In k, In v, In r,
                                          MaybeIn reset, In checkpoints, MaybeIn g, MaybeIn ga,
                                          MaybeIn gb) {
  BackwardResult out = backward({time_decay, time_first, k, v, reset, &r}, checkpoints, g, ga, gb);
  return {out.time_decay, out.time_first, out.k, out.v, out.r, out.a, out.b, out.p, out.out};
}

TORCH_LIBRARY_IMPL(rwkv, CPU, m) {
  m.impl("wkv4", wkv4_cpu);
  m.impl("wkv4_train", wkv4_train_cpu);
  m.impl("wkv4_backward", wkv4_backward_cpu);
  m.impl("wkv4_gated", wkv4_gated_cpu);
  m.impl("wkv4_gated_train", wkv4_gated_train_cpu);
  m.impl("wkv4_gated_backward", wkv4_gated_backward_cpu);
}

}  // namespace
}  // namespace rwkv::ops
