#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>

#include "trainer/event_file.h"
#include "trainer/report/run_files.h"

namespace rwkv::trainer {

/// Figures of one optimizer update. `step` counts from 1: it is the number of updates done.
struct StepMetrics {
  int64_t step = 0;
  int64_t tokens = 0;        // consumed since the start of the run
  double loss = 0;           // nats per token, mean over the step's batch
  double smoothed_loss = 0;  // exponential mean of the last hundred steps or so
  std::optional<double> bits_per_byte;
  std::optional<double> bits_per_character;
  double lr = 0;         // before the layer-wise multipliers
  double grad_norm = 0;  // before clipping
  double tokens_per_s = 0;
  std::optional<double> mfu;  // matrix products per second / what the machine reaches in them alone
  std::optional<double> wait_s;  // of several ranks: rank 0's wait for the sums of gradients
  bool skipped = false;          // true when the update was skipped as not finite
};

/// Figures of one validation pass.
struct ValidationMetrics {
  int64_t step = 0;
  int64_t tokens = 0;
  double val_loss = 0;  // nats per token
  std::optional<double> val_bits_per_byte;
  std::optional<double> val_bits_per_character;
};

/// `metrics.jsonl`: one JSON object a line, keys as in the structs above, and `elapsed_s`, the
/// seconds of training so far over all sessions; `samples.jsonl`; and the same for TensorBoard, as
/// train/loss, validation/val_loss and so on. Failed writes never stop a run: they are reported
/// once, and training goes on.
class MetricsLog {
 public:
  /// Opens FOLDER/metrics.jsonl for appending, without the lines of steps after `last_step`: after
  /// a resume no step is logged twice. A last line cut off by a crash goes too.
  MetricsLog(const std::filesystem::path& folder, int64_t last_step, bool tensorboard = false);

  void write(const StepMetrics& metrics);
  /// A step that has a validation already is not logged again.
  void write(const ValidationMetrics& metrics);
  void write(const report::SampleText& sample);

 private:
  using Clock = std::chrono::steady_clock;

  /// Adds elapsed_s and writes the entry to both logs.
  void write_entry(nlohmann::ordered_json& entry, const char* group);
  void write_line(std::ofstream& out, const std::filesystem::path& path, const std::string& line);
  /// Calls `write` with TensorBoard's file, which is made at the first call: a run that logs
  /// nothing leaves none.
  template <typename Write>
  void write_event(const Write& write);

  std::filesystem::path folder_;
  std::filesystem::path path_;
  std::ofstream out_;
  int64_t last_step_;
  int64_t validated_step_ = -1;
  double elapsed_before_s_ = 0;  // of earlier sessions, up to `last_step`
  Clock::time_point start_ = Clock::now();
  bool failed_ = false;
  bool tensorboard_;
  std::optional<EventFile> events_;
};

/// One line on the terminal that is rewritten while training runs; a line every few seconds when
/// the output is no terminal. Nothing is printed more often than a reader can follow.
class ProgressLine {
 public:
  explicit ProgressLine(int64_t total_steps);

  /// Shows the figures of a step; time left is computed from the steps seen since construction.
  void show(const StepMetrics& metrics);
  /// Ends the rewritten line, so that other output starts on a line of its own.
  void finish();

 private:
  using Clock = std::chrono::steady_clock;

  int64_t total_steps_;
  int64_t first_step_ = -1;
  bool is_terminal_;
  bool line_open_ = false;
  Clock::time_point start_;
  Clock::time_point last_shown_;
};

/// "1h02m", "3m05s" or "12s".
std::string format_duration(double seconds);

}  // namespace rwkv::trainer
