#include "trainer/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <stdexcept>

#include "data/base/error.h"

namespace rwkv::trainer {
namespace {

constexpr int64_t kDefaultEpochCount = 500;

// The originals' formulas stand here in the order of their operations: the results must agree to
// the last bit. Counts are exact in double below 2^53.

double real(int64_t count) { return static_cast<double>(count); }

double clamp01(double x) { return std::max(0.0, std::min(1.0, x)); }

double exponential(double from, double to, double x) {
  return from * std::exp(std::log(to / from) * x);
}

/// Falls from 1 to f as x goes from 0 to 1.
double cosine_factor(double f, double x) {
  return (0.5 + f / 2) + (0.5 - f / 2) * std::cos(std::numbers::pi * x);
}

/// `distance`: how far into the segment, of `length`.
double curve_at(const LrCurve& curve, double distance, double length) {
  const double x = distance / length;
  switch (curve.kind) {
    case CurveKind::kConstant:
      return curve.start;
    case CurveKind::kLinear:
      return curve.start + (curve.end - curve.start) * x;
    case CurveKind::kExp:
      return exponential(curve.start, curve.end, x);
    case CurveKind::kCosine:
      return curve.start * cosine_factor(curve.end / curve.start, x);
    case CurveKind::kHyperbola:
      return curve.start / (1 + curve.rate * distance);
  }
  throw std::logic_error("unknown curve");
}

}  // namespace

MiniEpochs mini_epochs(const TrainConfig& train, int64_t magic_prime) {
  if (train.stage < 1) return {train.epoch_steps, kDefaultEpochCount, train.stage};
  const int64_t count = magic_prime > 0 ? magic_prime / data::kSamplesPerEpoch : kDefaultEpochCount;
  return {std::max<int64_t>(1, data::kSamplesPerEpoch / train.real_bsz()), count, train.stage};
}

Schedule::Schedule(const ScheduleConfig& config, const OptimizerConfig& optimizer, int64_t ctx_len,
                   int64_t real_bsz, const MiniEpochs& epochs)
    : config_(config),
      optimizer_(optimizer),
      tokens_per_step_(real(ctx_len) * real(real_bsz)),
      epochs_(epochs) {
  if (config.kind == ScheduleKind::kSegments && config.segments.empty()) {
    throw std::logic_error("a schedule of kind segments without segments");
  }
  if (config.epoch_steps > 0) epochs_.steps = config.epoch_steps;
  if (config.epoch_count >= 0) epochs_.count = config.epoch_count;
  if (config.kind == ScheduleKind::kRwkv4neo || config.kind == ScheduleKind::kRwkv7) check_room();
}

void Schedule::check_room() const {
  const double W = real(config_.warmup_steps);
  const double exit = std::abs(real(config_.my_exit_tokens));
  if (config_.lr_final != config_.lr_init && epochs_.count != 0 &&
      (real(epochs_.count) - real(config_.my_pile_edecay)) * real(epochs_.steps) - W <= 0) {
    user_error(
        "schedule.epoch_count: {} mini-epochs of {} steps leave nothing after my_pile_edecay = {} "
        "and {} steps of warm-up; raise epoch_count",
        epochs_.count, epochs_.steps, config_.my_pile_edecay, config_.warmup_steps);
  }
  if (config_.my_exit_tokens != 0 && exit - W * tokens_per_step_ <= 0) {
    user_error("schedule.my_exit_tokens: {} tokens are over after {} steps of warm-up; raise it",
               config_.my_exit_tokens, config_.warmup_steps);
  }
}

SchedulePoint Schedule::at(const SchedulePosition& position) const {
  switch (config_.kind) {
    case ScheduleKind::kSegments:
      return segments_at(position);
    case ScheduleKind::kRwkv4neo:
    case ScheduleKind::kRwkv7:
      return epochs_at(position);
    case ScheduleKind::kRwkv4Tokens:
    case ScheduleKind::kRwkv2Tokens:
      return tokens_at(position);
  }
  throw std::logic_error("unknown kind of schedule");
}

double Schedule::lr_init() const {
  return config_.kind == ScheduleKind::kSegments ? config_.segments.front().lr.start
                                                 : config_.lr_init;
}

SchedulePoint Schedule::segments_at(const SchedulePosition& position) const {
  const int64_t u = config_.unit == ScheduleUnit::kTokens ? position.tokens : position.step;
  int64_t begin = 0;
  size_t index = 0;
  while (index + 1 < config_.segments.size() && u >= config_.segments[index].until) {
    begin = config_.segments[index++].until;
  }
  const Segment& segment = config_.segments[index];
  // Beyond the last segment its end goes on.
  const bool beyond = u >= segment.until;
  const double length = real(segment.until - begin);
  SchedulePoint point;
  point.lr = beyond && config_.after
                 ? *config_.after
                 : curve_at(segment.lr, beyond ? length : real(u - begin), length);
  point.lr *= warmup_factor(position);
  point.betas = segment.betas.value_or(optimizer_.betas);
  point.weight_decay = decayed_weight_decay(clamp01(real(u) / real(config_.segments.back().until)));
  point.real_bsz = segment.real_bsz;
  return point;
}

double Schedule::warmup_factor(const SchedulePosition& position) const {
  const WarmupConfig& warmup = config_.warmup;
  const auto factor = [&](int64_t s, int64_t steps) {
    return s < steps ? warmup.floor + (1 - warmup.floor) * real(s) / real(steps) : 1.0;
  };
  const bool from_weights = position.steps_since_start != position.step;
  const double start = factor(position.step, warmup.steps);
  return from_weights ? std::min(start, factor(position.steps_since_start, warmup.after_resume))
                      : start;
}

/// -1 means none; after a start from weights alone in mid-run, 10 steps in RWKV-7 and in stage 2,
/// else 30.
int64_t Schedule::warmup_steps(const SchedulePosition& position) const {
  const bool from_weights = position.steps_since_start != position.step;
  if (config_.warmup_steps >= 0 || !from_weights) return config_.warmup_steps;
  return config_.kind == ScheduleKind::kRwkv7 || epochs_.stage == 2 ? 10 : 30;
}

/// RWKV-4neo: s = updates since the start, R = updates of the run, W = warm-up, E = steps per
/// mini-epoch.
SchedulePoint Schedule::epochs_at(const SchedulePosition& position) const {
  const int64_t warmup = warmup_steps(position);
  const double s = real(position.steps_since_start);
  const double R = real(position.step);
  const double W = real(warmup);
  const double E = real(epochs_.steps);
  const double plateau = real(config_.my_pile_edecay);
  const double lr_init = config_.lr_init;
  const double lr_final = config_.lr_final;
  SchedulePoint point;
  double progress = 0.0;
  point.lr = lr_init;
  if (lr_final != lr_init && epochs_.count != 0) {
    progress = clamp01((R - plateau * E - W + 1) / ((real(epochs_.count) - plateau) * E - W));
    point.lr = lr_init == 0.0 || lr_final == 0.0 ? lr_init + (lr_final - lr_init) * progress
                                                 : exponential(lr_init, lr_final, progress);
  }
  if (config_.my_exit_tokens != 0) {
    const double exit = std::abs(real(config_.my_exit_tokens));
    progress = clamp01((R - W) * tokens_per_step_ / (exit - W * tokens_per_step_));
    const double cosine = lr_init * cosine_factor(lr_final / lr_init, progress);
    point.lr = config_.my_exit_tokens > 0 ? cosine : (point.lr + cosine) / 2;
    point.finished = progress >= 1.0;
  }
  if (s < W) {
    const bool v7 = config_.kind == ScheduleKind::kRwkv7;
    point.lr *= v7 ? 0.01 + 0.99 * s / W : 0.2 + 0.8 * s / W;
  }
  point.betas = optimizer_.betas;
  point.weight_decay = decayed_weight_decay(progress);
  return point;
}

/// v1 to v4 set the rate after an update for the next one, so the first update uses lr_init in
/// spite of a warm-up.
SchedulePoint Schedule::tokens_at(const SchedulePosition& position) const {
  const int64_t tokens = std::min(position.tokens, config_.final_tokens);
  SchedulePoint point;
  point.lr = tokens == 0 ? config_.lr_init : lr_by_tokens(config_, tokens);
  point.betas = optimizer_.betas;
  const double decay_tokens = real(config_.final_tokens - config_.warmup_tokens);
  point.weight_decay = decayed_weight_decay(
      clamp01(real(tokens - config_.warmup_tokens) / std::max(1.0, decay_tokens)));
  return point;
}

double Schedule::decayed_weight_decay(double progress) const {
  const double start = optimizer_.weight_decay;
  const double end = optimizer_.weight_decay_final;
  if (start <= 0.0 || end <= 0.0) return start;
  return exponential(start, end, progress);
}

double lr_by_tokens(const ScheduleConfig& config, int64_t tokens) {
  const double f = config.lr_final / config.lr_init;
  const double tok = real(tokens);
  const double W = real(config.warmup_tokens);
  if (tokens < config.warmup_tokens) return config.lr_init * (f + (1 - f) * tok / W);
  const double x = (tok - W) / std::max(1.0, real(config.final_tokens) - W);
  if (config.kind == ScheduleKind::kRwkv2Tokens) return config.lr_init * cosine_factor(f, x);
  return config.lr_init * (x >= 1 ? f : std::exp(std::log(f) * x));
}

std::vector<double> lr_multipliers(const OptimizerConfig& optimizer, int64_t stage) {
  std::vector<double> multipliers = {1.0};
  if (optimizer.layerwise_lr) {
    multipliers.push_back(stage == 2 ? 5.0 : 2.0);
    multipliers.push_back(stage == 2 ? 5.0 : 3.0);
  }
  if (optimizer.weight_decay > 0.0) multipliers.push_back(1.0);
  return multipliers;
}

}  // namespace rwkv::trainer
