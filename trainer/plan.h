#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "trainer/config.h"
#include "trainer/memory_model.h"

namespace rwkv::trainer {

/// What a machine can do at most. GPUs: NVIDIA's data sheets, dense products; the last column is
/// what collective operations reach between the GPUs of one machine (estimates).
struct Device {
  std::string_view name;
  double memory_bytes = 0;
  double flops_16 = 0, flops_tf32 = 0, flops_fp32 = 0;  // operations per second
  double bytes_per_s = 0;                               // of its memory
  double bus_bytes_per_s = 0;                           // between devices

  [[nodiscard]] double flops(Precision precision) const;
};
inline constexpr std::array kDevices = {
    Device{"a100-40", 40e9, 312e12, 156e12, 19.5e12, 1.555e12, 230e9},
    Device{"a100-80", 80e9, 312e12, 156e12, 19.5e12, 2.039e12, 230e9},
    Device{"h100", 80e9, 989e12, 494e12, 67e12, 3.35e12, 360e9},
    Device{"h200", 141e9, 989e12, 494e12, 67e12, 4.8e12, 360e9},
    Device{"l40s", 48e9, 362e12, 183e12, 91.6e12, 0.864e12, 20e9},
    Device{"rtx4090", 24e9, 165e12, 82.6e12, 82.6e12, 1.008e12, 20e9},
    Device{"rtx3090", 24e9, 71e12, 35.6e12, 35.6e12, 0.936e12, 20e9}};

/// nullptr when no row has that name.
const Device* find_device(std::string_view name);

/// The highest ZeRO level that this program has; the others are computed and marked.
inline constexpr int64_t kHighestZeroBuilt = 1;

/// How memory-bound work is counted, in bytes a token: a layer's reads and writes between products
/// (of tensors of width C, 16 bits each), and the loss over V logits.
struct Traffic {
  double layer_bytes_per_channel = 0;
  double loss_bytes_per_entry = 0;
};
inline constexpr Traffic kEagerTraffic{480, 42};     // each PyTorch operator by itself
inline constexpr Traffic kOneKernelTraffic{168, 6};  // one kernel an operator, loss in place

/// Products reach that share of the device's rate.
inline constexpr double kProductShare = 0.8;

/// Seconds of one step on one of the devices.
struct StepTime {
  double products = 0;
  double traffic = 0;
  double update = 0;
  double communication = 0;  // all of it
  double exposed = 0;        // the part that the backward pass does not hide
  double tokens_per_s = 0;   // of all devices

  [[nodiscard]] double total() const { return products + traffic + update + exposed; }
};

/// A roofline estimate, nothing measured: every kind of work at the device's rate, one after the
/// other. `tokens` of one device and step.
StepTime step_time(const MemoryQuestion& question, double tokens, const Device& device,
                   const Traffic& traffic);

/// Bytes that one device sends and receives in a step: an all-reduce of the gradients (ZeRO-1 and 2
/// do the same in two halves), half as much again with ZeRO-3.
double communication_bytes(const MemoryQuestion& question);

/// One point of the run.
struct SchedulePoints {
  std::vector<double> tokens, lr;
  struct Change {
    double tokens = 0;
    std::string what;
  };
  std::vector<Change> changes;  // of betas, weight decay and batch size
  int64_t steps = 0;
};

/// The schedule from beginning to end in a few thousand points. `devices`: each takes the
/// configuration's batch.
SchedulePoints schedule_points(const RunConfig& config, int64_t devices);

/// Everything that `rwkv plan` prints.
struct PlanOptions {
  int64_t devices = 1;
  Device device = {};
  bool measured = false;  // `device` is this machine's processor
};

std::string plan_text(const RunConfig& config, const PlanOptions& options);
std::string plan_json(const RunConfig& config, const PlanOptions& options);

/// Throws UserError when weights, gradients and moments alone are more than the machine has, and
/// returns a sentence to warn with when the estimated peak is; empty when it fits.
std::string check_memory(const RunConfig& config, double machine_bytes);

}  // namespace rwkv::trainer
