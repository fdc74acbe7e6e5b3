#include "trainer/plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "data/base/error.h"
#include "trainer/schedule.h"

namespace rwkv::trainer {
namespace {

bool is_16_bit(Precision precision) {
  return precision == Precision::kBf16 || precision == Precision::kFp16;
}

double shared_by(const MemoryQuestion& q, int64_t from_level) {
  return q.zero >= from_level ? static_cast<double>(q.devices) : 1;
}

/// Samples of a whole step, of all devices.
int64_t global_bsz(const RunConfig& config, int64_t devices) {
  return config.train.real_bsz() * devices;
}

}  // namespace

double Device::flops(Precision precision) const {
  if (is_16_bit(precision)) return flops_16;
  return precision == Precision::kTf32 ? flops_tf32 : flops_fp32;
}

const Device* find_device(std::string_view name) {
  const auto* const found = std::ranges::find(kDevices, name, &Device::name);
  return found == kDevices.end() ? nullptr : found;
}

double communication_bytes(const MemoryQuestion& q) {
  if (q.devices < 2) return 0;
  const auto n = static_cast<double>(q.devices);
  const double element = is_16_bit(q.precision) ? 2 : 4;
  return 2 * element * static_cast<double>(parameter_count(q.model)) * (n - 1) / n *
         (q.zero >= 3 ? 1.5 : 1);
}

StepTime step_time(const MemoryQuestion& q, double tokens, const Device& device,
                   const Traffic& traffic) {
  const double wide = is_16_bit(q.precision) ? 1 : 2;  // as wide as the 16-bit tensors of Traffic
  const auto C = static_cast<double>(q.model.n_embd);
  const auto L = static_cast<double>(q.model.n_layer);
  const auto V = static_cast<double>(q.model.vocab_size);
  const auto parameters = static_cast<double>(parameter_count(q.model));
  // A repeated forward pass is a third of the work again.
  const double again = q.grad_cp ? 4.0 / 3 : 1;
  StepTime time;
  time.products = tokens * again * 6 * static_cast<double>(product_weights(q.model)) /
                  (device.flops(q.precision) * kProductShare);
  time.traffic = tokens *
                 (again * L * traffic.layer_bytes_per_channel * C * wide +
                  traffic.loss_bytes_per_entry * V * wide) /
                 device.bytes_per_s;
  constexpr double kUpdateBytes = 30;  // gradient, moments, master and weight, read and written
  time.update = kUpdateBytes * parameters / shared_by(q, 1) / device.bytes_per_s;
  if (q.devices > 1) {
    time.communication = communication_bytes(q) / device.bus_bytes_per_s;
    const double micro_batches = std::max(1.0, tokens / static_cast<double>(q.tokens()));
    const double backward = 2.0 / 3 * (time.products + time.traffic) / micro_batches;
    time.exposed = std::max(0.0, time.communication - backward);
  }
  time.tokens_per_s = static_cast<double>(q.devices) * tokens / time.total();
  return time;
}

SchedulePoints schedule_points(const RunConfig& config, int64_t devices) {
  const TrainConfig& t = config.train;
  const int64_t samples = config.data.magic_prime * (config.data.qa_mask == 2 ? 2 : 1);
  const int64_t usual_bsz = global_bsz(config, devices);
  const Schedule schedule(config.schedule, config.optimizer, t.ctx_len, usual_bsz,
                          mini_epochs(t, samples));
  const auto tokens_per_step = [&](const SchedulePoint& now) {
    return now.real_bsz.value_or(usual_bsz) * t.ctx_len;
  };
  int64_t last = t.max_steps > 0 ? t.max_steps : std::numeric_limits<int64_t>::max();
  if (t.max_tokens > 0) {
    const int64_t least = std::max<int64_t>(1, tokens_per_step(schedule.at({})));
    last = std::min(last, t.max_tokens / least + (t.max_tokens % least != 0 ? 1 : 0));
  }
  constexpr int64_t kPoints = 14400;
  const int64_t stride = std::max<int64_t>(1, last / kPoints);
  SchedulePoints points;
  std::string before;
  int64_t tokens = 0;
  for (int64_t step = 0; step < last; step += stride) {
    const SchedulePoint now =
        schedule.at({.step = step, .tokens = tokens, .steps_since_start = step});
    if (now.finished || (t.max_tokens > 0 && tokens >= t.max_tokens)) break;
    std::string what = fmt::format("betas {}, {}", now.betas[0], now.betas[1]);
    if (now.real_bsz) what += fmt::format(", {} windows a step", *now.real_bsz);
    if (what != before) points.changes.push_back({static_cast<double>(tokens), what});
    before = what;
    points.tokens.push_back(static_cast<double>(tokens));
    points.lr.push_back(now.lr);
    points.steps = std::min(last, step + stride);
    tokens += std::min(stride, last - step) * tokens_per_step(now);
  }
  points.tokens.push_back(static_cast<double>(tokens));
  if (!points.lr.empty()) points.lr.push_back(points.lr.back());
  return points;
}

std::string check_memory(const RunConfig& config, double machine_bytes) {
  const MemoryQuestion question = memory_question(config);
  const MemoryParts peak = peak_memory(question);
  const double gigabyte = 1e9;
  const auto parameters = static_cast<double>(parameter_count(config.model));
  const double element = is_16_bit(config.train.precision) ? 2 : 4;
  const double least = peak.weights + peak.masters + peak.moments + parameters * element;
  if (least > machine_bytes) {
    user_error(
        "model: {:.2f} G parameters need {:.1f} GB for weights, gradients and Adam's moments "
        "alone, "
        "this machine has {:.1f} GB; choose a smaller n_layer or n_embd ('rwkv plan' shows what "
        "fits)",
        parameters / 1e9, least / gigabyte, machine_bytes / gigabyte);
  }
  const double all = peak.total() + kProgramBytes;
  if (all <= machine_bytes) return "";
  return fmt::format(
      "the run needs about {:.1f} GB of memory, this machine has {:.1f}; lower train.micro_bsz (at "
      "most {} should fit){}, or see 'rwkv plan'",
      all / gigabyte, machine_bytes / gigabyte,
      largest_micro_bsz(question, machine_bytes - kProgramBytes),
      question.grad_cp ? "" : " or set train.grad_cp: true");
}

}  // namespace rwkv::trainer
