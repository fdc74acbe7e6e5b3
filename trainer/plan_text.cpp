#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "trainer/plan.h"

// The two forms in which a plan is printed.
namespace rwkv::trainer {
namespace {

using nlohmann::ordered_json;

constexpr double kGB = 1e9;

/// 332115325534 as "332.1 G".
std::string short_count(double value) {
  constexpr std::array<std::string_view, 5> kUnits = {"", " k", " M", " G", " T"};
  size_t unit = 0;
  while (value >= 999.95 && unit + 1 < kUnits.size()) {
    value /= 1000;
    ++unit;
  }
  return unit == 0 ? fmt::format("{:.0f}", value) : fmt::format("{:.1f}{}", value, kUnits[unit]);
}

std::string short_time(double seconds) {
  if (seconds < 1) return fmt::format("{:.1f} ms", seconds * 1e3);
  if (seconds < 3600) return fmt::format("{:.1f} s", seconds);
  return seconds < 2 * 86400 ? fmt::format("{:.1f} hours", seconds / 3600)
                             : fmt::format("{:.1f} days", seconds / 86400);
}

/// One line of the table of memory: a ZeRO level, with or without recomputation.
struct MemoryRow {
  MemoryQuestion question;
  MemoryParts parts;
  double overhead = 0;  // program, or what a GPU keeps
  int64_t largest = 0;  // micro_bsz

  [[nodiscard]] double total() const { return parts.total() + overhead; }
};

std::vector<MemoryRow> memory_rows(const RunConfig& config, const PlanOptions& options) {
  std::vector<MemoryRow> rows;
  for (const bool grad_cp : {false, true}) {
    for (int64_t zero = 0; zero <= 3; ++zero) {
      MemoryRow row;
      row.question = memory_question(config, options.devices);
      row.question.zero = zero;
      row.question.grad_cp = grad_cp;
      row.parts = peak_memory(row.question);
      row.overhead = options.measured ? kProgramBytes : kGpuReserveBytes;
      row.largest = largest_micro_bsz(row.question, options.device.memory_bytes - row.overhead);
      rows.push_back(row);
    }
  }
  return rows;
}

double device_tokens(const RunConfig& config, int64_t devices) {
  return static_cast<double>(config.train.real_bsz() / devices * config.train.ctx_len);
}

/// With all operators of PyTorch by themselves, and with one kernel an operator: the program lies
/// between.
std::array<StepTime, 2> speeds(const RunConfig& config, const PlanOptions& options) {
  MemoryQuestion q = memory_question(config, options.devices);
  q.zero = options.devices > 1 ? kHighestZeroBuilt : 0;
  const double tokens = device_tokens(config, options.devices);
  return {step_time(q, tokens, options.device, kEagerTraffic),
          step_time(q, tokens, options.device, kOneKernelTraffic)};
}

std::string model_lines(const RunConfig& config) {
  const model::ModelConfig& m = config.model;
  const auto products = static_cast<double>(product_weights(m));
  return fmt::format(
      "model        {} L{} C{} V{}: {}parameters, {}of them in matrix products\n"
      "FLOPs        {:.4g} G a token: 6 for each of those (2 forward, 4 backward{})\n",
      m.arch, m.n_layer, m.n_embd, m.vocab_size,
      short_count(static_cast<double>(parameter_count(m))) + " ", short_count(products) + " ",
      6 * products / 1e9, config.train.grad_cp ? "; grad_cp computes 2 again, uncounted" : "");
}

std::string step_line(const RunConfig& config, const PlanOptions& options,
                      const SchedulePoints& points) {
  const TrainConfig& t = config.train;
  const int64_t windows = t.real_bsz() / options.devices;
  return fmt::format(
      "step         {} windows of {} tokens = {} tokens; {} device{}: {} windows each, {} at a "
      "time\n"
      "run          {} steps, {} tokens\n",
      t.real_bsz(), t.ctx_len, t.real_bsz() * t.ctx_len, options.devices,
      options.devices == 1 ? "" : "s", windows, memory_question(config, options.devices).micro_bsz,
      points.steps, short_count(points.tokens.back()));
}

std::string memory_table(const RunConfig& config, const PlanOptions& options) {
  std::string out = fmt::format(
      "\nMemory on one device at the fullest moment of a step, in GB (1e9 bytes); {} has {:.1f}\n"
      "(micro_bsz {}, {}; 'else' is workspace and {})\n"
      "{:<19}{:>8}{:>8}{:>8}{:>8}{:>8}{:>8}{:>7}{:>8}  {}\n",
      options.device.name, options.device.memory_bytes / kGB,
      memory_question(config, options.devices).micro_bsz,
      name_of(kPrecisionNames, config.train.precision),
      options.measured ? "the program itself" : "2.5 GB for context and fragments", "", "weights",
      "masters", "moments", "grads", "activ.", "logits", "else", "sum", "micro_bsz <=");
  for (const MemoryRow& row : memory_rows(config, options)) {
    const MemoryParts& p = row.parts;
    const bool fits = row.total() <= options.device.memory_bytes;
    out += fmt::format(
        "ZeRO-{}{:<13}{:>8.2f}{:>8.2f}{:>8.2f}{:>8.2f}{:>8.2f}{:>8.2f}{:>7.2f}{:>8.2f}{} {}{}\n",
        row.question.zero, row.question.grad_cp ? ", recomputed" : "", p.weights / kGB,
        p.masters / kGB, p.moments / kGB, p.gradients / kGB, p.activations / kGB, p.logits / kGB,
        (p.workspace + row.overhead) / kGB, row.total() / kGB, fits ? " " : "!",
        row.largest > 0 ? std::to_string(row.largest) : "none",
        row.question.zero > kHighestZeroBuilt ? " (not built)" : "");
  }
  return out +
         "! does not fit; micro_bsz <= is the largest that does. recomputed: with "
         "train.grad_cp.\n" +
         (options.measured ? "The allocator may take up to a third more for gaps between tensors.\n"
                           : "");
}

std::string communication_lines(const RunConfig& config, const PlanOptions& options) {
  if (options.devices < 2) return "";
  const MemoryQuestion q = memory_question(config, options.devices);
  const double bytes = communication_bytes(q);
  const double seconds = bytes / options.device.bus_bytes_per_s;
  return fmt::format(
      "\nCommunication of a step and device: {:.2f} GB ({:.2f} with ZeRO-3), {} at {:.0f} GB/s\n",
      bytes / kGB, 1.5 * bytes / kGB, short_time(seconds), options.device.bus_bytes_per_s / kGB);
}

std::string speed_lines(const RunConfig& config, const PlanOptions& options,
                        const SchedulePoints& points) {
  const auto [slow, fast] = speeds(config, options);
  const Device& d = options.device;
  const double tokens = points.tokens.back();
  return fmt::format(
      "\nSpeed on {}: {} to {} tokens/s, a step in {} to {},\n  the run in {} to {}\n"
      "  An estimate{}: products at {:.0f} % of {:.4g} TFLOP/s ({}), memory\n"
      "  at {:.4g} GB/s: between every PyTorch operator by itself ({:.0f} bytes a channel, layer "
      "and\n"
      "  token) and one kernel an operator ({:.0f}); Adam {}; communication hidden behind the "
      "backward\n"
      "  pass but for {}.{}\n",
      options.devices == 1 ? std::string(d.name) : fmt::format("{} {}", options.devices, d.name),
      short_count(slow.tokens_per_s), short_count(fast.tokens_per_s), short_time(slow.total()),
      short_time(fast.total()), short_time(tokens / slow.tokens_per_s),
      short_time(tokens / fast.tokens_per_s),
      options.measured ? " from rates measured just now" : ", nothing of it measured on a GPU",
      100 * kProductShare, d.flops(config.train.precision) / 1e12,
      name_of(kPrecisionNames, config.train.precision), d.bytes_per_s / kGB,
      kEagerTraffic.layer_bytes_per_channel, kOneKernelTraffic.layer_bytes_per_channel,
      short_time(slow.update), short_time(slow.exposed),
      options.measured ? "" : "\n  Rates are those of the data sheet.");
}

/// The curve as rows of characters, the rate downwards from its largest value.
std::string schedule_drawing(const SchedulePoints& points) {
  constexpr size_t kColumns = 80;
  constexpr int kRows = 8;
  if (points.lr.empty()) return "";
  std::vector<double> lr(kColumns);
  size_t at = 0;
  for (size_t i = 0; i < kColumns; ++i) {
    const double tokens =
        points.tokens.back() * (static_cast<double>(i) + 0.5) / static_cast<double>(kColumns);
    while (at + 1 < points.tokens.size() && points.tokens[at + 1] <= tokens) ++at;
    lr[i] = points.lr[at];
  }
  const double high = *std::ranges::max_element(lr);
  const double low = *std::ranges::min_element(lr);
  const bool logarithmic = low > 0 && high / low > 8;
  const auto height = [&](double value) {
    if (high <= low) return 1.0;
    return logarithmic ? std::log(value / low) / std::log(high / low)
                       : (value - low) / (high - low);
  };
  std::string out = fmt::format("\nLearning rate{}\n", logarithmic ? ", logarithmic" : "");
  for (int row = kRows - 1; row >= 0; --row) {
    const std::string label = row == kRows - 1 ? fmt::format("{:.2e}", high)
                              : row == 0       ? fmt::format("{:.2e}", low)
                                               : "";
    out += fmt::format("{:>10} |", label);
    std::string line;
    for (const double value : lr) {
      const auto cell = static_cast<int>(std::lround(height(value) * (kRows - 1)));
      line += cell == row ? '*' : ' ';
    }
    out += line.substr(0, line.find_last_not_of(' ') + 1) + '\n';
  }
  out += fmt::format("{:>10} +{}\n{:>12}{:<40}{:>40}\n", "", std::string(kColumns, '-'), "", "0",
                     short_count(points.tokens.back()) + " tokens");
  for (const SchedulePoints::Change& change : points.changes) {
    out += fmt::format("  from {} tokens: {}\n", short_count(change.tokens), change.what);
  }
  return out;
}

ordered_json memory_json(const RunConfig& config, const PlanOptions& options) {
  ordered_json out = ordered_json::array();
  for (const MemoryRow& row : memory_rows(config, options)) {
    out.push_back({{"zero", row.question.zero},
                   {"built", row.question.zero <= kHighestZeroBuilt},
                   {"grad_cp", row.question.grad_cp},
                   {"weights_bytes", row.parts.weights},
                   {"masters_bytes", row.parts.masters},
                   {"moments_bytes", row.parts.moments},
                   {"gradients_bytes", row.parts.gradients},
                   {"activations_bytes", row.parts.activations},
                   {"logits_bytes", row.parts.logits},
                   {"workspace_bytes", row.parts.workspace},
                   {"overhead_bytes", row.overhead},
                   {"peak_bytes", row.total()},
                   {"fits", row.total() <= options.device.memory_bytes},
                   {"largest_micro_bsz", row.largest}});
  }
  return out;
}

ordered_json time_json(const StepTime& time, const Traffic& traffic) {
  return {{"bytes_per_channel_layer_token", traffic.layer_bytes_per_channel},
          {"bytes_per_vocabulary_entry_token", traffic.loss_bytes_per_entry},
          {"products_s", time.products},
          {"traffic_s", time.traffic},
          {"update_s", time.update},
          {"communication_s", time.communication},
          {"exposed_communication_s", time.exposed},
          {"step_s", time.total()},
          {"tokens_per_s", time.tokens_per_s}};
}

}  // namespace

std::string plan_text(const RunConfig& config, const PlanOptions& options) {
  const SchedulePoints points = schedule_points(config);
  return model_lines(config) + step_line(config, options, points) + memory_table(config, options) +
         communication_lines(config, options) + speed_lines(config, options, points) +
         schedule_drawing(points);
}

std::string plan_json(const RunConfig& config, const PlanOptions& options) {
  const SchedulePoints points = schedule_points(config);
  const auto [slow, fast] = speeds(config, options);
  const MemoryQuestion q = memory_question(config, options.devices);
  const auto products = static_cast<double>(product_weights(config.model));
  ordered_json changes = ordered_json::array();
  for (const auto& change : points.changes) {
    changes.push_back({{"tokens", change.tokens}, {"what", change.what}});
  }
  const ordered_json out = {
      {"parameters", parameter_count(config.model)},
      {"product_weights", product_weights(config.model)},
      {"flops_per_token", 6 * products},
      {"activation_bytes_per_token_and_layer", activation_bytes_per_token_and_layer(q)},
      {"steps", points.steps},
      {"tokens", points.tokens.back()},
      {"devices", options.devices},
      {"device",
       {{"name", options.device.name},
        {"measured", options.measured},
        {"memory_bytes", options.device.memory_bytes},
        {"flops_per_s", options.device.flops(config.train.precision)},
        {"bytes_per_s", options.device.bytes_per_s},
        {"bus_bytes_per_s", options.device.bus_bytes_per_s},
        {"product_share", kProductShare}}},
      {"memory", memory_json(config, options)},
      {"communication_bytes", communication_bytes(q)},
      {"speed", {time_json(slow, kEagerTraffic), time_json(fast, kOneKernelTraffic)}},
      {"schedule", {{"tokens", points.tokens}, {"lr", points.lr}, {"changes", changes}}}};
  return out.dump(2) + "\n";
}

}  // namespace rwkv::trainer
