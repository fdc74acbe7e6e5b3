#include "model/inference/quantise.h"

#include <torch/torch.h>

#include <algorithm>
#include <initializer_list>
#include <tuple>

namespace rwkv::model {
namespace {

void check(const at::Tensor& weight) {
  TORCH_CHECK(weight.dim() == 2 && weight.numel() > 0 && weight.scalar_type() == at::kFloat,
              "a matrix to quantise must be float32 [out,in], got ", weight.scalar_type(), " ",
              weight.sizes());
}

/// Zeros, and what is no number, become 1: a range to divide by.
at::Tensor or_one(const at::Tensor& range) { return at::where(range > 0, range, 1.0); }

/// Calls body(first, rows of `weight` from there on): few enough at a time to stay in the cache.
template <typename Body>
void over_row_blocks(const at::Tensor& weight, const Body& body) {
  const int64_t step = std::max<int64_t>(1, (1 << 18) / weight.size(1));
  for (int64_t first = 0; first < weight.size(0); first += step) {
    body(first, weight.narrow(0, first, std::min(step, weight.size(0) - first)));
  }
}

/// The divisor of Q's integers.
constexpr double kSeedLevels = 127;

struct SeedScales {
  at::Tensor a;  // [in]
  at::Tensor b;  // [out]
};

/// One round from columns `a`: the smallest b, and then the smallest a, that keep |M| <= b a.
SeedScales tightened(const at::Tensor& weight, const at::Tensor& a) {
  SeedScales scales{at::zeros({weight.size(1)}), at::empty({weight.size(0)})};
  over_row_blocks(weight, [&](int64_t first, const at::Tensor& rows) {
    const at::Tensor magnitude = rows.abs();
    const at::Tensor b = or_one((magnitude / a).amax(1));
    scales.b.narrow(0, first, rows.size(0)).copy_(b);
    at::maximum_out(scales.a, scales.a, (magnitude / b.unsqueeze(1)).amax(0));
  });
  scales.a = or_one(scales.a);
  return scales;
}

SeedScales alternating_maxima(const at::Tensor& weight) {
  SeedScales scales{at::ones({weight.size(1)}), {}};
  for (int round = 0; round < 3; ++round) scales = tightened(weight, scales.a);
  return scales;
}

/// Q of the rows of M = diag(b) Q diag(a), in steps of 1/127.
at::Tensor seed_steps(const at::Tensor& rows, const at::Tensor& a, const at::Tensor& b) {
  return rows.div(b.unsqueeze(1) / kSeedLevels).div_(a).round_().clamp_(-kSeedLevels, kSeedLevels);
}

/// Scales whose rounding error weighs least for inputs of these mean squares [in]: error ij is
/// b_i a_j / 127 at most, so sum_ij (b_i a_j)^2 mean_j(v^2) is to be small. The fixed points of the
/// alternation depend on its start; several are tried.
SeedScales scales_for(const at::Tensor& weight, const SeedScales& maxima,
                      const at::Tensor& mean_squares) {
  const at::Tensor rms = (mean_squares + mean_squares.mean() * 1e-4 + 1e-20).sqrt();
  SeedScales best = maxima;
  const auto error = [&](const SeedScales& s) {
    return (s.b.square().sum() * (s.a.square() * mean_squares).sum()).item<double>();
  };
  double least = error(best);
  // Columns go with a power of the maxima's a and of the inputs' size.
  for (const auto& [of_column, of_rms] :
       {std::pair{0.5, 0.0}, std::pair{0.0, 0.5}, std::pair{0.5, 0.5}}) {
    SeedScales tried = tightened(weight, maxima.a.pow(of_column) * rms.pow(-of_rms));
    const double its_error = error(tried);
    if (its_error < least) {
      least = its_error;
      best = tried;
    }
  }
  return best;
}

/// Rows of bytes under choice: for each row the steps and the b that gave the least error of the
/// samples' outputs.
class BestRows {
 public:
  BestRows(const at::Tensor& rows, const at::Tensor& samples, const at::Tensor& a)
      : rows_(rows), a_(a), scaled_(samples * a), outputs_(at::mm(samples, rows.t())) {}

  /// Tries Q with b, and the same Q with the b of least squares.
  void offer(const at::Tensor& b) {
    const at::Tensor steps = seed_steps(rows_, a_, b);
    const at::Tensor z = at::mm(scaled_, steps.t()).div_(kSeedLevels);  // [T,out]
    const at::Tensor fitted = (outputs_ * z).sum(0) / or_one(z.square().sum(0));
    take(steps, b, z);
    take(steps, at::where(fitted > 0, fitted, b), z);
  }

  [[nodiscard]] double error() const { return error_.sum(at::kDouble).item<double>(); }
  [[nodiscard]] const at::Tensor& steps() const { return steps_; }
  [[nodiscard]] const at::Tensor& b() const { return b_; }

 private:
  void take(const at::Tensor& steps, const at::Tensor& b, const at::Tensor& z) {
    const at::Tensor error = (outputs_ - z * b).square_().sum(0);  // [out]
    if (!error_.defined()) {
      std::tie(error_, steps_, b_) = std::tuple(error, steps, b);
      return;
    }
    const at::Tensor better = error < error_;
    error_ = at::where(better, error, error_);
    b_ = at::where(better, b, b_);
    if (!steps.is_same(steps_)) steps_ = at::where(better.unsqueeze(1), steps, steps_);
  }

  at::Tensor rows_, a_, scaled_, outputs_;
  at::Tensor error_, steps_, b_;
};

/// Bytes of a whole matrix with these a and b, and, with samples, the best of the b times `cuts`.
struct SeedBytes {
  ByteWeights weights;
  double error = 0;  // of the samples' outputs, squared and summed
};

SeedBytes seed_bytes(const at::Tensor& weight, const SeedScales& scales, const at::Tensor& samples,
                     std::initializer_list<double> cuts, const at::Tensor& aa) {
  const int64_t out = weight.size(0);
  SeedBytes result{{at::empty(weight.sizes(), at::kByte), scales.a.contiguous(), aa.contiguous(),
                    at::empty({out}), at::empty({out})}};
  over_row_blocks(weight, [&](int64_t first, const at::Tensor& rows) {
    at::Tensor b = scales.b.narrow(0, first, rows.size(0)), steps;
    if (samples.defined()) {
      BestRows best(rows, samples, scales.a);
      for (const double cut : cuts) best.offer(b * cut);
      std::tie(b, steps) = std::tuple(best.b(), best.steps());
      result.error += best.error();
    } else {
      steps = seed_steps(rows, scales.a, b);
    }
    ByteWeights& w = result.weights;
    w.q.narrow(0, first, rows.size(0)).copy_(steps + 128);
    w.row_scale.narrow(0, first, rows.size(0)).copy_(b);
    w.row_shift.narrow(0, first, rows.size(0)).copy_(-b * at::mv(steps, aa) / kSeedLevels);
  });
  return result;
}

/// -1/2 (largest + smallest) of v * a.
at::Tensor middle_shift(const at::Tensor& samples, const at::Tensor& a) {
  return -0.5 * (samples.amax(0) + samples.amin(0)) * a;
}

}  // namespace

ByteWeights quantise_i8(const at::Tensor& weight) {
  check(weight);
  const torch::NoGradGuard no_grad;
  const int64_t out = weight.size(0), in = weight.size(1);
  // The package holds W^T [in,out]; of its two minima it first takes those along the shorter side.
  const bool columns_first = in > out;
  at::Tensor mx = at::empty({out, 1}), my, rx = at::empty({out, 1}), ry = at::zeros({in});
  const auto of_rows = [](const at::Tensor& vector, int64_t first, const at::Tensor& rows) {
    return vector.narrow(0, first, rows.size(0));
  };
  if (columns_first) my = weight.amin(0);
  over_row_blocks(weight, [&](int64_t first, const at::Tensor& rows) {
    of_rows(mx, first, rows).copy_((columns_first ? rows - my : rows).amin(1, true));
    if (columns_first) return;
    const at::Tensor smallest = (rows - of_rows(mx, first, rows)).amin(0);
    my = my.defined() ? at::minimum(my, smallest) : smallest;
  });
  const auto from_zero = [&](int64_t first, const at::Tensor& rows) {
    const at::Tensor of_row = of_rows(mx, first, rows);
    return columns_first ? (rows - my).sub_(of_row) : (rows - of_row).sub_(my);
  };
  over_row_blocks(weight, [&](int64_t first, const at::Tensor& rows) {
    at::Tensor w = from_zero(first, rows);
    const at::Tensor range = or_one(w.amax(1, true));
    of_rows(rx, first, rows).copy_(range);
    ry = at::maximum(ry, w.div_(range).amax(0));
  });
  ry = or_one(ry);
  at::Tensor q = at::empty({out, in}, at::kByte);
  over_row_blocks(weight, [&](int64_t first, const at::Tensor& rows) {
    at::Tensor w = from_zero(first, rows).div_(of_rows(rx, first, rows)).div_(ry);
    of_rows(q, first, rows).copy_(w.mul_(256).floor_().clamp_(0, 255));
  });
  // rx and ry share the division by 256.
  return {q, ry / 16, my, (rx / 16).view({-1}), mx.view({-1})};
}

at::Tensor dequantise_i8(const ByteWeights& weights, int64_t begin, int64_t end) {
  const auto rows = [&](const at::Tensor& v) { return v.slice(0, begin, end).unsqueeze(1); };
  return (weights.q.slice(0, begin, end).to(at::kFloat) + 0.5)
      .mul_(weights.column_scale)
      .mul_(rows(weights.row_scale))
      .add_(weights.column_shift)
      .add_(rows(weights.row_shift));
}

ByteWeights quantise_seed(const at::Tensor& weight) {
  check(weight);
  const torch::NoGradGuard no_grad;
  return seed_bytes(weight, alternating_maxima(weight), {}, {}, at::zeros({weight.size(1)}))
      .weights;
}

ByteWeights quantise_seed(const at::Tensor& weight, const at::Tensor& samples) {
  check(weight);
  TORCH_CHECK(samples.dim() == 2 && samples.size(1) == weight.size(1), "samples must be [T,",
              weight.size(1), "], got ", samples.sizes());
  const torch::NoGradGuard no_grad;
  const SeedScales maxima = alternating_maxima(weight);
  const SeedScales fitted = scales_for(weight, maxima, samples.square().mean(0));
  SeedBytes best = seed_bytes(weight, maxima, samples, {1.0}, middle_shift(samples, maxima.a));
  // Rows with outliers may do better when those are cut.
  SeedBytes tried =
      seed_bytes(weight, fitted, samples, {1.0, 0.9, 0.8}, middle_shift(samples, fitted.a));
  return tried.error < best.error ? tried.weights : best.weights;
}

at::Tensor dequantise_seed(const ByteWeights& weights, int64_t begin, int64_t end) {
  return (weights.q.slice(0, begin, end).to(at::kFloat) - 128)
      .mul_(weights.column_scale)
      .mul_(weights.row_scale.slice(0, begin, end).unsqueeze(1) / kSeedLevels);
}

}  // namespace rwkv::model
