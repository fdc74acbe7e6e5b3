#include <ATen/ATen.h>
#include <torch/library.h>

#include <algorithm>
#include <utility>

#include "cuda/norm_shift_mix.h"
#include "cuda/rows_cpu.h"
#include "cuda/wkv4.h"
#include "cuda/wkv4_cpu.h"

// Layer norm, token shift and mix on the CPU. Threads take pieces of kPieceTokens tokens of one
// batch row; a piece computes the norm of the token before it once more. Parameter gradients are
// summed within a piece and then over the pieces in their order: the pieces depend on the shape
// alone, so results do not depend on the number of threads.

namespace rwkv::ops {
namespace {

using In = const at::Tensor&;
using MaybeIn = const OptionalTensor&;

constexpr int64_t kPieceTokens = 64;

struct Sizes {
  int64_t B, T, C, mixes;

  [[nodiscard]] int64_t pieces_of_row() const { return (T + kPieceTokens - 1) / kPieceTokens; }
  [[nodiscard]] int64_t pieces() const { return B * pieces_of_row(); }
};

/// Tokens [begin, end) of batch row b.
struct Piece {
  int64_t index, b, begin, end;
};

template <typename Body>
void for_each_piece(const Sizes& sizes, const Body& body) {
  constexpr int64_t kElementsWorthAThread = 16384;
  const int64_t elements = std::min(sizes.T, kPieceTokens) * sizes.C;
  const int64_t grain =
      std::max<int64_t>(1, kElementsWorthAThread / std::max<int64_t>(1, elements));
  parallel_pieces(sizes.pieces(), grain, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      const int64_t begin = i % sizes.pieces_of_row() * kPieceTokens;
      body(Piece{i, i / sizes.pieces_of_row(), begin, std::min(begin + kPieceTokens, sizes.T)});
    }
  });
}

/// Contiguous inputs in the types that the rows are read in, kept alive for one run.
template <typename S>
struct Inputs {
  using T = RowMath<S>;

  Sizes sizes;
  at::Tensor x, previous, reset, weight, bias;
  std::vector<at::Tensor> mix;

  Inputs(const NormShiftMixArguments& in, at::ScalarType math)
      : sizes{in.x.size(0), in.x.size(1), in.x.size(2), static_cast<int64_t>(in.mix.size())},
        x(in.x.contiguous()),
        previous(in.previous.has_value() ? in.previous->contiguous() : at::Tensor()),
        reset(in.reset.has_value() ? in.reset->contiguous() : at::Tensor()),
        weight(in.weight.to(math).contiguous()),
        bias(in.bias.to(math).contiguous()) {
    for (const at::Tensor& m : in.mix) mix.push_back(m.to(math).contiguous());
  }

  [[nodiscard]] int64_t offset(int64_t b, int64_t t) const { return (b * sizes.T + t) * sizes.C; }
  [[nodiscard]] bool is_reset(int64_t b, int64_t t) const {
    return reset.defined() && reset.const_data_ptr<bool>()[b * sizes.T + t];
  }
  /// z of the token before the first one, into `z`.
  void load_previous(int64_t b, std::vector<T>& z) const {
    if (!previous.defined()) return std::fill(z.begin(), z.end(), T(0));
    StagedRow<S> row(sizes.C);
    std::copy_n(row.read(previous.const_data_ptr<S>() + b * sizes.C), sizes.C, z.begin());
  }
};

template <typename S>
std::vector<S*> pointers(const std::vector<at::Tensor>& tensors) {
  std::vector<S*> all;
  for (const at::Tensor& tensor : tensors) all.push_back(tensor.mutable_data_ptr<S>());
  return all;
}

template <typename S>
std::vector<StagedRow<S>> staged_rows(const Sizes& sizes) {
  return std::vector<StagedRow<S>>(static_cast<size_t>(sizes.mixes), StagedRow<S>(sizes.C));
}

/// mixed_i at element `at` from z and its shift.
template <typename S>
void write_mixes(const Inputs<S>& in, const RowMath<S>* z, const RowMath<S>* shifted, int64_t at,
                 const std::vector<S*>& mixed, std::vector<StagedRow<S>>& staged) {
  using T = RowMath<S>;
  MixRow<T> row{.channels = in.sizes.C, .mixes = in.sizes.mixes, .z = z, .shifted = shifted};
  for (size_t i = 0; i < mixed.size(); ++i) {
    row.mix[i] = in.mix[i].template const_data_ptr<T>();
    row.out[i] = staged[i].target(mixed[i] + at);
  }
  row_kernels<T>().mix(row);
  for (size_t i = 0; i < mixed.size(); ++i) staged[i].write(mixed[i] + at);
}

template <typename S>
class Forward {
 public:
  using T = RowMath<S>;

  Forward(const NormShiftMixArguments& arguments, double eps, const NormShiftMixTensors& out)
      : in_(arguments, std::get<1>(out).scalar_type()),
        delta_(arguments.delta.has_value() ? arguments.delta->contiguous() : at::Tensor()),
        eps_(static_cast<T>(eps)),
        out_(out),
        mixed_(pointers<S>(std::get<4>(out))) {}

  [[nodiscard]] const Sizes& sizes() const { return in_.sizes; }

  void run(const Piece& piece) const {
    const int64_t C = in_.sizes.C;
    Rows rows(in_.sizes);
    std::vector<T> z(static_cast<size_t>(C)), before(static_cast<size_t>(C));
    const std::vector<T> zero(static_cast<size_t>(C));
    if (piece.begin > 0) {
      RowMoments<T> unused{};
      norm(piece.b, piece.begin - 1, rows.rounded.data(), rows, unused, before.data());
    } else {
      in_.load_previous(piece.b, before);
    }
    for (int64_t t = piece.begin; t < piece.end; ++t) {
      const int64_t at = in_.offset(piece.b, t);
      S* const sum = delta_.defined() ? std::get<0>(out_).mutable_data_ptr<S>() + at : nullptr;
      RowMoments<T> moments{};
      norm(piece.b, t, sum, rows, moments, z.data());
      std::get<1>(out_).mutable_data_ptr<T>()[piece.b * in_.sizes.T + t] = moments.mean;
      std::get<2>(out_).mutable_data_ptr<T>()[piece.b * in_.sizes.T + t] = moments.rstd;
      const T* const shifted = in_.is_reset(piece.b, t) ? zero.data() : before.data();
      write_mixes(in_, z.data(), shifted, at, mixed_, rows.mixed);
      std::swap(z, before);
    }
    if (piece.end == in_.sizes.T) {
      S* const last = std::get<3>(out_).mutable_data_ptr<S>() + piece.b * C;
      std::copy_n(before.data(), C, rows.x.target(last));
      rows.x.write(last);
    }
  }

 private:
  struct Rows {
    StagedRow<S> x, delta, sum;
    std::vector<S> rounded;
    std::vector<StagedRow<S>> mixed;

    explicit Rows(const Sizes& sizes)
        : x(sizes.C),
          delta(sizes.C),
          sum(sizes.C),
          rounded(static_cast<size_t>(sizes.C)),
          mixed(staged_rows<S>(sizes)) {}
  };

  /// The norm of row (b, t) into z; x + delta, rounded to S, is left in `sum`.
  void norm(int64_t b, int64_t t, S* sum, Rows& rows, RowMoments<T>& moments, T* z) const {
    const int64_t C = in_.sizes.C, at = in_.offset(b, t);
    const RowKernels<T>& kernels = row_kernels<T>();
    const T* x = rows.x.read(in_.x.template const_data_ptr<S>() + at);
    if (delta_.defined()) {
      const T* delta = rows.delta.read(delta_.const_data_ptr<S>() + at);
      kernels.add(x, delta, rows.sum.target(sum), C);
      rows.sum.write(sum);
      x = rows.sum.read(sum);
    }
    kernels.moments(x, C, eps_, &moments);
    kernels.affine(x, &moments, in_.weight.template const_data_ptr<T>(),
                   in_.bias.template const_data_ptr<T>(), z, C);
  }

  Inputs<S> in_;
  at::Tensor delta_;
  T eps_;
  const NormShiftMixTensors& out_;
  std::vector<S*> mixed_;
};

NormShiftMixTensors norm_shift_mix_cpu(In x, MaybeIn delta, In weight, In bias, double eps,
                                       MaybeIn previous, MaybeIn reset, at::TensorList mix) {
  const NormShiftMixArguments in{x, delta, weight, bias, previous, reset, mix};
  check_norm_shift_mix(in);
  const auto math = x.options().dtype(x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat);
  const auto like_x = [&] { return at::empty(x.sizes(), x.options()); };
  NormShiftMixTensors out{delta.has_value() ? like_x() : at::empty({0}, x.options()),
                          at::empty({x.size(0), x.size(1)}, math),
                          at::empty({x.size(0), x.size(1)}, math),
                          at::empty({x.size(0), x.size(2)}, x.options()),
                          {}};
  for (size_t i = 0; i < mix.size(); ++i) std::get<4>(out).push_back(like_x());
  with_storage_type(x.scalar_type(), [&]<typename S>(std::type_identity<S>) {
    const Forward<S> forward(in, eps, out);
    for_each_piece(forward.sizes(), [&](const Piece& piece) { forward.run(piece); });
  });
  return out;
}

/// What the backward reads beside the inputs, contiguous.
struct Incoming {
  at::Tensor mean, rstd, g_sum, g_last;
  std::vector<at::Tensor> g_mixed;
};

template <typename S>
class Backward {
 public:
  using T = RowMath<S>;

  /// partial: (pieces, 2 + mixes, C), zeros; gradients of weight, bias and the mixes.
  Backward(const NormShiftMixArguments& arguments, const Incoming& incoming,
           const NormShiftMixGradients& out, In partial)
      : in_(arguments, partial.scalar_type()),
        incoming_(incoming),
        gx_(std::get<0>(out).mutable_data_ptr<S>()),
        g_previous_(std::get<3>(out)),
        mixed_(pointers<S>(std::get<5>(out))),
        partial_(partial.mutable_data_ptr<T>()) {}

  [[nodiscard]] const Sizes& sizes() const { return in_.sizes; }

  void run(const Piece& piece) const {
    const int64_t C = in_.sizes.C;
    Rows rows(in_.sizes);
    start(piece, rows);
    T* const partial = partial_ + piece.index * (2 + in_.sizes.mixes) * C;
    RowMoments<T> moments = norm(piece.b, piece.end - 1, rows.x, rows.z.data());
    for (int64_t t = piece.end - 1; t >= piece.begin; --t) {
      const int64_t at = in_.offset(piece.b, t);
      RowMoments<T> moments_before{};
      if (t > 0) {
        moments_before = norm(piece.b, t - 1, rows.x, rows.before.data());
      } else {
        in_.load_previous(piece.b, rows.before);
      }
      const bool reset = in_.is_reset(piece.b, t);
      const T* const shifted = reset ? rows.zero.data() : rows.before.data();
      write_mixes(in_, rows.z.data(), shifted, at, mixed_, rows.mixed);
      mix_backward(at, rows, rows.z.data(), shifted, partial + 2 * C);
      if (reset) std::fill(rows.later.begin(), rows.later.end(), T(0));
      norm_backward(at, moments, rows, partial);
      std::swap(rows.z, rows.before);
      moments = moments_before;
    }
    if (piece.begin == 0 && in_.previous.defined()) {
      S* const to = g_previous_.mutable_data_ptr<S>() + piece.b * C;
      std::copy_n(rows.later.data(), C, rows.x.target(to));
      rows.x.write(to);
    }
  }

 private:
  struct Rows {
    StagedRow<S> x, gx, g_sum;
    std::vector<StagedRow<S>> mixed, g_mixed;
    std::vector<T> z, before, later, gz, unused;
    std::vector<T> zero;

    explicit Rows(const Sizes& sizes)
        : x(sizes.C),
          gx(sizes.C),
          g_sum(sizes.C),
          mixed(staged_rows<S>(sizes)),
          g_mixed(staged_rows<S>(sizes)) {
      for (std::vector<T>* row : {&z, &before, &later, &gz, &zero}) {
        row->resize(static_cast<size_t>(sizes.C));
      }
      unused.resize(static_cast<size_t>(sizes.mixes * sizes.C));
    }
  };

  /// What the token after the piece passes back to its last one, into rows.later.
  void start(const Piece& piece, Rows& rows) const {
    if (piece.end == in_.sizes.T) {
      if (!incoming_.g_last.defined()) return;
      const S* const from = incoming_.g_last.template const_data_ptr<S>() + piece.b * in_.sizes.C;
      std::copy_n(rows.x.read(from), in_.sizes.C, rows.later.begin());
    } else if (!in_.is_reset(piece.b, piece.end)) {
      mix_backward(in_.offset(piece.b, piece.end), rows, rows.zero.data(), rows.zero.data(),
                   rows.unused.data());
    }
  }

  RowMoments<T> norm(int64_t b, int64_t t, StagedRow<S>& x, T* z) const {
    const int64_t token = b * in_.sizes.T + t;
    const RowMoments<T> moments{incoming_.mean.template const_data_ptr<T>()[token],
                                incoming_.rstd.template const_data_ptr<T>()[token]};
    row_kernels<T>().affine(x.read(in_.x.template const_data_ptr<S>() + in_.offset(b, t)), &moments,
                            in_.weight.template const_data_ptr<T>(),
                            in_.bias.template const_data_ptr<T>(), z, in_.sizes.C);
    return moments;
  }

  void mix_backward(int64_t at, Rows& rows, const T* z, const T* shifted, T* g_mix) const {
    MixBackwardRow<T> row{.channels = in_.sizes.C,
                          .mixes = in_.sizes.mixes,
                          .z = z,
                          .shifted = shifted,
                          .later = rows.later.data(),
                          .gz = rows.gz.data()};
    for (size_t i = 0; i < rows.g_mixed.size(); ++i) {
      row.mix[i] = in_.mix[i].template const_data_ptr<T>();
      row.g[i] = rows.g_mixed[i].read(incoming_.g_mixed[i].template const_data_ptr<S>() + at);
      row.gmix[i] = g_mix + static_cast<int64_t>(i) * in_.sizes.C;
    }
    row_kernels<T>().mix_backward(row);
  }

  void norm_backward(int64_t at, const RowMoments<T>& moments, Rows& rows, T* partial) const {
    const at::Tensor& g_sum = incoming_.g_sum;
    row_kernels<T>().norm_backward(
        {.channels = in_.sizes.C,
         .x = rows.x.read(in_.x.template const_data_ptr<S>() + at),
         .moments = moments,
         .weight = in_.weight.template const_data_ptr<T>(),
         .gz = rows.gz.data(),
         .g_sum = g_sum.defined() ? rows.g_sum.read(g_sum.const_data_ptr<S>() + at) : nullptr,
         .gx = rows.gx.target(gx_ + at),
         .gweight = partial,
         .gbias = partial + in_.sizes.C});
    rows.gx.write(gx_ + at);
  }

  Inputs<S> in_;
  const Incoming& incoming_;
  S* gx_;
  const at::Tensor& g_previous_;
  std::vector<S*> mixed_;
  T* partial_;
};

at::Tensor contiguous_or_none(MaybeIn tensor) {
  return tensor.has_value() ? tensor->contiguous() : at::Tensor();
}

NormShiftMixGradients norm_shift_mix_backward_cpu(In sum, In mean, In rstd, In weight, In bias,
                                                  MaybeIn previous, MaybeIn reset,
                                                  at::TensorList mix, at::TensorList g_mixed,
                                                  MaybeIn g_sum, MaybeIn g_last) {
  const OptionalTensor none;
  const NormShiftMixArguments in{sum, none, weight, bias, previous, reset, mix};
  check_norm_shift_mix_backward(in, mean, rstd, g_mixed, g_sum, g_last);
  Incoming incoming{mean.contiguous(),
                    rstd.contiguous(),
                    contiguous_or_none(g_sum),
                    contiguous_or_none(g_last),
                    {}};
  for (const at::Tensor& g : g_mixed) incoming.g_mixed.push_back(g.contiguous());
  const auto like_x = [&] { return at::empty(sum.sizes(), sum.options()); };
  NormShiftMixGradients out;
  std::get<0>(out) = like_x();
  std::get<3>(out) = previous.has_value() ? at::empty(previous->sizes(), sum.options())
                                          : at::empty({0}, sum.options());
  for (size_t i = 0; i < mix.size(); ++i) std::get<5>(out).push_back(like_x());
  const Sizes sizes{sum.size(0), sum.size(1), sum.size(2), static_cast<int64_t>(mix.size())};
  const at::Tensor partial = at::zeros({sizes.pieces(), 2 + sizes.mixes, sizes.C}, mean.options());
  with_storage_type(sum.scalar_type(), [&]<typename S>(std::type_identity<S>) {
    const Backward<S> backward(in, incoming, out, partial);
    for_each_piece(sizes, [&](const Piece& piece) { backward.run(piece); });
  });
  const at::Tensor total = partial.sum(0);
  const auto like = [&](int64_t row, In parameter) {
    return total.select(0, row).view_as(parameter).to(parameter.scalar_type());
  };
  std::get<1>(out) = like(0, weight);
  std::get<2>(out) = like(1, bias);
  for (size_t i = 0; i < mix.size(); ++i) {
    std::get<4>(out).push_back(like(2 + static_cast<int64_t>(i), mix[i]));
  }
  return out;
}

TORCH_LIBRARY_IMPL(rwkv, CPU, m) {
  m.impl("norm_shift_mix", norm_shift_mix_cpu);
  m.impl("norm_shift_mix_backward", norm_shift_mix_backward_cpu);
}

}  // namespace
}  // namespace rwkv::ops
