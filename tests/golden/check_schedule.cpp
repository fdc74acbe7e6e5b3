#include <algorithm>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "data/base/error.h"
#include "tests/golden/golden.h"
#include "trainer/schedule.h"

// Rows of lr_schedule.json, made by the learning-rate callbacks of RWKV-v4neo and
// RWKV-v7/train_temp, by the trainers of v1 to v4, and by the closed form of the schedule in
// RWKV-LM's README.

namespace rwkv::golden {
namespace {

using nlohmann::json;
using namespace rwkv::trainer;

constexpr double kBound = 1e-12;  // relative

/// The largest relative difference seen; a value that should be 0 counts by itself.
struct Worst {
  double difference = 0.0;
  void see(double ours, double golden) {
    const double scale = golden == 0.0 ? 1.0 : std::abs(golden);
    const double now = std::abs(ours - golden) / scale;
    difference = std::isnan(now) ? now : std::max(difference, now);
  }
  void see(const std::vector<double>& ours, const json& golden) {
    if (ours.size() != golden.size()) difference = std::nan("");
    for (size_t i = 0; i < ours.size() && i < golden.size(); ++i) see(ours[i], golden[i]);
  }
};

/// A count that JSON may hold as 15000000000.0.
int64_t count(const json& value) {
  return value.is_number_float() ? std::llround(value.get<double>()) : value.get<int64_t>();
}

bool starts_with(const std::string& text, std::string_view prefix) {
  return text.substr(0, prefix.size()) == prefix;
}

int64_t stage_of(const json& test_case) {
  const json& config = test_case.at("config");
  if (config.contains("my_pile_stage")) return count(config["my_pile_stage"]);
  // The rows of this case were made in stage 2, which its configuration does not repeat.
  return starts_with(test_case.at("name"), "stage2") ? 2 : -1;
}

/// RWKV-7 has a 1x and a 2x list (att.w0) and no 3x list.
std::vector<double> multipliers_of(const OptimizerConfig& optimizer, bool v7, int64_t stage) {
  std::vector<double> result = lr_multipliers(optimizer, stage);
  if (v7 && optimizer.layerwise_lr) result.erase(result.begin() + 2);
  return result;
}

/// Rows [global_step, lr, weight_decay, lr per group, weight decay per group].
void check_callback(const json& test_case, Report& report) {
  const json& config = test_case.at("config");
  const bool v7 = starts_with(test_case.at("source"), "RWKV-v7");
  const int64_t stage = stage_of(test_case);
  ScheduleConfig schedule;
  schedule.kind = v7 ? ScheduleKind::kRwkv7 : ScheduleKind::kRwkv4neo;
  schedule.lr_init = config.at("lr_init");
  schedule.lr_final = config.at("lr_final");
  schedule.warmup_steps = count(config.at("warmup_steps"));
  schedule.epoch_steps = count(config.at("epoch_steps"));
  schedule.epoch_count = count(config.at("epoch_count"));
  schedule.my_pile_edecay = count(config.at("my_pile_edecay"));
  schedule.my_exit_tokens = count(config.at("my_exit_tokens"));
  OptimizerConfig optimizer;
  optimizer.weight_decay = config.at("weight_decay");
  optimizer.weight_decay_final = config.at("weight_decay_final");
  optimizer.layerwise_lr = count(config.at("layerwise_lr")) > 0;
  const Schedule ours(schedule, optimizer, count(config.at("ctx_len")),
                      count(config.at("real_bsz")), {.stage = stage});
  const int64_t steps_before = count(config.at("epoch_begin")) * schedule.epoch_steps;
  const std::vector<double> multipliers = multipliers_of(optimizer, v7, stage);
  Worst lr;
  Worst weight_decay;
  Worst groups;
  for (const json& row : test_case.at("rows")) {
    const int64_t step = count(row.at(0));
    const SchedulePoint point = ours.at({.step = steps_before + step, .steps_since_start = step});
    lr.see(point.lr, row.at(1));
    weight_decay.see(point.weight_decay, row.at(2));
    std::vector<double> group_lr = multipliers;
    for (double& value : group_lr) value *= point.lr;
    groups.see(group_lr, row.at(3));
    std::vector<double> group_decay(multipliers.size(), 0.0);
    if (optimizer.weight_decay > 0.0) group_decay.back() = point.weight_decay;
    groups.see(group_decay, row.at(4));
  }
  const std::string name = test_case.at("name");
  report.compare(name + ": lr", lr.difference, kBound);
  report.compare(name + ": weight decay", weight_decay.difference, kBound);
  report.compare(name + ": groups", groups.difference, kBound);
}

/// Rows [step, lr used by that step] of v1 to v4.
void check_by_tokens(const json& test_case, Report& report) {
  const json& config = test_case.at("config");
  const std::string source = test_case.at("source");
  const bool cosine = starts_with(source, "RWKV-v1") || starts_with(source, "RWKV-v2");
  ScheduleConfig schedule;
  schedule.kind = cosine ? ScheduleKind::kRwkv2Tokens : ScheduleKind::kRwkv4Tokens;
  schedule.lr_init = config.at("lr_init");
  schedule.lr_final = config.at("lr_final");
  schedule.warmup_tokens = count(config.at("warmup_tokens"));
  schedule.final_tokens = count(config.at("final_tokens"));
  const int64_t ctx_len = count(config.at("ctx_len"));
  const int64_t batch = count(config.at("batch"));
  const Schedule ours(schedule, OptimizerConfig{}, ctx_len, batch);
  Worst until_end;
  Worst beyond_end;
  for (const json& row : test_case.at("rows")) {
    const int64_t step = count(row.at(0));
    const int64_t tokens = step * batch * ctx_len;
    const double lr = ours.at({step, tokens, step}).lr;
    if (!cosine || tokens <= schedule.final_tokens) {
      until_end.see(lr, row.at(1));
    } else {
      // Past the end the original's rate rises again; ours stays. The bare formula still agrees.
      beyond_end.see(lr_by_tokens(schedule, tokens), row.at(1));
      beyond_end.see(lr, lr_by_tokens(schedule, schedule.final_tokens));
    }
  }
  const std::string name = test_case.at("name");
  report.compare(name + ": lr", until_end.difference, kBound);
  if (cosine) report.compare(name + ": lr past the end", beyond_end.difference, kBound);
}

/// Rows [tokens, lr, beta1, beta2] of the schedule in the README, written as segments.
void check_readme(const json& test_case, Report& report) {
  const json& config = test_case.at("config");
  const double lr0 = config.at("lr0");
  const double lr1 = config.at("lr1");
  // The betas before and after the change stand only in the rows.
  const json& rows = test_case.at("rows");
  const auto betas_of = [](const json& row) {
    return std::array<double, 2>{row.at(2).get<double>(), row.at(3).get<double>()};
  };
  ScheduleConfig schedule;
  Segment flat;
  flat.until = count(config.at("flat_tokens"));
  flat.lr = {.kind = CurveKind::kConstant, .start = lr0};
  flat.betas = betas_of(rows.front());
  Segment decay;
  decay.until = count(config.at("end_tokens"));
  decay.lr = {.kind = CurveKind::kExp, .start = lr0, .end = lr1};
  decay.betas = betas_of(rows.back());
  schedule.segments = {flat, decay};
  schedule.after = lr1;
  const Schedule ours(schedule, OptimizerConfig{}, 1024, 1);
  Worst lr;
  Worst betas;
  for (const json& row : rows) {
    const SchedulePoint point = ours.at({.tokens = count(row.at(0))});
    lr.see(point.lr, row.at(1));
    betas.see(point.betas[0], row.at(2));
    betas.see(point.betas[1], row.at(3));
  }
  const std::string name = test_case.at("name");
  report.compare(name + ": lr", lr.difference, kBound);
  report.compare(name + ": betas", betas.difference, 0.0);
}

}  // namespace

void check_lr_schedule(const std::filesystem::path& file, Report& report) {
  std::ifstream in(file);
  if (!in) user_error("cannot open {}; check the path", file.string());
  const json golden = json::parse(in);
  for (const json& test_case : golden.at("cases")) {
    if (test_case.at("config").contains("flat_tokens")) {
      check_readme(test_case, report);
    } else if (test_case.at("config").contains("final_tokens")) {
      check_by_tokens(test_case, report);
    } else {
      check_callback(test_case, report);
    }
  }
}

}  // namespace rwkv::golden
