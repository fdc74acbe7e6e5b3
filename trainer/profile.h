#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace rwkv::trainer {

/// While it lives, measures where the time of training steps goes: by part of the step, by
/// operator, and event by event in a trace file of a few steps. One at a time. Costs 5 to 9 % of a
/// step of L2 C128 (25 ms), less of longer ones.
///
/// Parts are the scopes named "rwkv::PART" that model and trainer open with RECORD_USER_SCOPE;
/// without a profile one costs some 25 ns. Within "rwkv::after_step" no other part counts. Times
/// are those of the processor: where kernels of a GPU run on after their call returned, they are
/// the times of the calls. Never run on a GPU.
class StepProfile {
 public:
  static constexpr int64_t kWarmUpSteps =
      3;  // allocate and warm up; counted only when a run has no others
  static constexpr int64_t kTraceSteps = 3;  // in the trace file

  explicit StepProfile(std::filesystem::path trace_file);
  StepProfile(const StepProfile&) = delete;
  StepProfile& operator=(const StepProfile&) = delete;
  ~StepProfile();

  /// To be called when a step begins; `step` counts from 1. The one before is over then, with all
  /// that came after it.
  void begin_step(int64_t step);

  /// Seconds of a step in one of its parts; matrix products are a part of both.
  struct PartSeconds {
    std::string name;
    double forward_s = 0, backward_s = 0, products_s = 0;
  };
  /// Ends the last step. The mean over the steps that count, in the order of the parts' first runs.
  [[nodiscard]] std::vector<PartSeconds> parts_per_step();

  /// Ends the last step. The tables, and where the trace lies; writes it if the run was too short
  /// for that until now.
  [[nodiscard]] std::string report();

 private:
  void end_step();
  void start_over();
  void write_trace();

  std::filesystem::path trace_path_;
  std::string trace_note_;  // what became of the trace; empty before it is written
  uint64_t handle_ = 0;
  int64_t step_ = 0;     // that runs; 0 = none
  int64_t steps_ = 0;    // that are over
  int64_t counted_ = 0;  // those since start_ns_
  int64_t start_ns_ = 0;
  int64_t step_start_ns_ = 0;
  int64_t first_traced_ = 0;
  int64_t last_traced_ = 0;
};

}  // namespace rwkv::trainer
