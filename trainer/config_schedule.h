#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "trainer/config_names.h"

namespace rwkv::trainer {

/// A decay curve from `start` to `end` over a segment; x is the fraction of the segment done.
enum class CurveKind {
  kConstant,   // start
  kLinear,     // start + (end - start) * x
  kExp,        // start * exp(ln(end / start) * x)
  kCosine,     // start * ((1 + f)/2 + (1 - f)/2 * cos(pi * x)) with f = end / start
  kHyperbola,  // start / (1 + rate * (u - u_start)), u in the schedule's unit
};
inline constexpr std::array kCurveNames = {
    Named{CurveKind::kConstant, "constant"}, Named{CurveKind::kLinear, "linear"},
    Named{CurveKind::kExp, "exp"}, Named{CurveKind::kCosine, "cosine"},
    Named{CurveKind::kHyperbola, "hyperbola"}};

/// `{constant: a}`, `{linear|exp|cosine: [a, b]}` or `{hyperbola: {lr: a, rate: r}}`.
struct LrCurve {
  CurveKind kind = CurveKind::kConstant;
  double start = 0.0;
  double end = 0.0;   // linear, exp, cosine
  double rate = 0.0;  // hyperbola

  bool operator==(const LrCurve&) const = default;
};

/// One entry of `schedule.segments`. A segment begins where the one before it ends.
struct Segment {
  int64_t until = 0;  // absolute end, in the schedule's unit
  LrCurve lr;
  std::optional<std::array<double, 2>> betas;  // unset: optimizer.betas
  std::optional<int64_t> real_bsz;             // unset: train.micro_bsz * train.grad_accum

  bool operator==(const Segment&) const = default;

  template <typename Self, typename Visitor>
  static void visit(Self& self, Visitor& v) {
    v.count("until", self.until, 1, kMaxCount, "absolute end of the segment");
    v.curve("lr", self.lr, "learning rate along the segment");
    v.optional_betas("betas", self.betas, "Adam's betas in this segment");
    v.optional_integer("real_bsz", self.real_bsz, 1, 1048576, "samples per step in this segment");
  }
};

/// Factor `floor + (1 - floor) * s / steps` on the learning rate while s < steps.
struct WarmupConfig {
  int64_t steps = 0;
  double floor = 0.0;
  int64_t after_resume = 0;

  bool operator==(const WarmupConfig&) const = default;

  template <typename Self, typename Visitor>
  static void visit(Self& self, Visitor& v) {
    v.count("steps", self.steps, 0, kMaxCount, "steps of warm-up at the start of the run");
    v.real("floor", self.floor, 0.0, 1.0, "factor of the very first step");
    v.count("after_resume", self.after_resume, 0, kMaxCount,
            "steps of warm-up after a start from weights alone in mid-run");
  }
};

enum class ScheduleKind { kSegments, kRwkv4neo, kRwkv7, kRwkv4Tokens, kRwkv2Tokens };
inline constexpr std::array kScheduleKindNames = {
    Named{ScheduleKind::kSegments, "segments"}, Named{ScheduleKind::kRwkv4neo, "rwkv4neo"},
    Named{ScheduleKind::kRwkv7, "rwkv7"}, Named{ScheduleKind::kRwkv4Tokens, "rwkv4_tokens"},
    Named{ScheduleKind::kRwkv2Tokens, "rwkv2_tokens"}};

enum class ScheduleUnit { kTokens, kSteps };
inline constexpr std::array kScheduleUnitNames = {Named{ScheduleUnit::kTokens, "tokens"},
                                                  Named{ScheduleUnit::kSteps, "steps"}};

/// What happens to Adam's moments and step count when a segment changes the betas.
enum class OnChange { kKeep, kReset };
inline constexpr std::array kOnChangeNames = {Named{OnChange::kKeep, "keep"},
                                              Named{OnChange::kReset, "reset"}};

/// Learning rate, betas and batch size along the run. Kind `segments` reads the first group of
/// keys, the kinds named after the original trainers of BlinkDL/RWKV-LM read the second with their
/// own names.
struct ScheduleConfig {
  ScheduleKind kind = ScheduleKind::kSegments;
  ScheduleUnit unit = ScheduleUnit::kTokens;
  WarmupConfig warmup;
  std::vector<Segment> segments;
  std::optional<double> after;
  OnChange on_change = OnChange::kKeep;

  double lr_init = 0.0;
  double lr_final = 0.0;
  int64_t warmup_steps = -1;
  int64_t epoch_steps = 0;
  int64_t epoch_count = -1;
  int64_t my_pile_edecay = 0;
  int64_t my_exit_tokens = 0;
  int64_t warmup_tokens = 0;
  int64_t final_tokens = 0;

  bool operator==(const ScheduleConfig&) const = default;

  template <typename Self, typename Visitor>
  static void visit(Self& self, Visitor& v) {
    v.choice("kind", self.kind, kScheduleKindNames,
             "segments, or the rule of RWKV-LM's v4neo, v7, v3/v4, v1/v2 trainer");
    v.choice("unit", self.unit, kScheduleUnitNames, "segments: what `until` counts");
    v.section("warmup", self.warmup);
    v.segments("segments", self.segments,
               "list of {until, lr: {constant|linear|exp|cosine|hyperbola}, betas, real_bsz}");
    v.optional_real("after", self.after, 0.0, 1.0,
                    "lr beyond the last segment; null = its last value");
    v.choice("on_change", self.on_change, kOnChangeNames, "Adam's moments when the betas change");
    v.real("lr_init", self.lr_init, 0.0, 1.0, "originals: first learning rate");
    v.real("lr_final", self.lr_final, 0.0, 1.0, "originals: last learning rate");
    v.count("warmup_steps", self.warmup_steps, -1, kMaxCount,
            "rwkv4neo, rwkv7: steps of warm-up; -1 = none, on a weights-only resume 10 or 30");
    v.count("epoch_steps", self.epoch_steps, 0, kMaxCount,
            "rwkv4neo, rwkv7: steps of a mini-epoch; 0 = as train.stage, train.epoch_steps say");
    v.count("epoch_count", self.epoch_count, -1, kMaxCount,
            "rwkv4neo, rwkv7: mini-epochs of the decay; -1 = one pass in a stage, else 500");
    v.count("my_pile_edecay", self.my_pile_edecay, 0, kMaxCount,
            "rwkv4neo: mini-epochs at lr_init before the decay");
    v.count("my_exit_tokens", self.my_exit_tokens, -kMaxCount, kMaxCount,
            "rwkv4neo, rwkv7: end of the cosine; negative = mean of both curves; 0 = none");
    v.count("warmup_tokens", self.warmup_tokens, 0, kMaxCount, "rwkv*_tokens: end of the warm-up");
    v.count("final_tokens", self.final_tokens, 0, kMaxCount, "rwkv*_tokens: end of the decay");
  }
};

}  // namespace rwkv::trainer
