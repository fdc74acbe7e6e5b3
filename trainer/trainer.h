#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "model/language_model.h"
#include "trainer/checkpoint.h"
#include "trainer/compute.h"
#include "trainer/config.h"
#include "trainer/dataset.h"
#include "trainer/distributed/parallel_optimizer.h"
#include "trainer/distributed/rank_group.h"
#include "trainer/evaluate.h"
#include "trainer/exit_code.h"
#include "trainer/loss_scaler.h"
#include "trainer/metrics.h"
#include "trainer/profile.h"
#include "trainer/run_lock.h"
#include "trainer/run_record.h"
#include "trainer/schedule.h"

namespace rwkv::trainer {

class Trainer;

/// What the command line says beside the configuration.
struct TrainOptions {
  bool from_scratch = false;       // start over although the folder holds damaged checkpoints only
  bool allow_data_change = false;  // resume on another training file
  bool profile = false;            // measure where the time goes (trainer/profile.h)
  std::shared_ptr<RankGroup> group = std::make_shared<RankGroup>();  // who trains together
  std::function<void(Trainer&)> before_step;  // called before each step; may be empty
};

/// A training run: one configuration, one folder, one process or several that make the same
/// updates.
///
/// The state of a run is (weights, moments, Progress); everything else is a function of the
/// configuration and the position. So N steps equal k steps, a restart and N - k steps, to the last
/// bit on the same machine with the same number of processes.
///
/// With several, all call the same functions in the same order; rank 0 also shows and writes.
class Trainer {
 public:
  /// Opens data, model and folder, and restores the newest valid checkpoint. Throws UserError.
  Trainer(RunConfig config, TrainOptions options);

  /// Trains to the end of the run, or until a signal asks to stop. Throws NotFiniteError.
  ExitCode run();

  [[nodiscard]] const Progress& progress() const { return progress_; }
  [[nodiscard]] model::LanguageModel& model() { return *model_; }

 private:
  /// Stage 1 of RWKV-4neo (RWKV-LM `RWKV-v4neo/train.py`): writes rwkv-init.pth and trains nothing.
  ExitCode write_initial_weights();
  /// Steps to the end of the run; true when a signal asked to stop before.
  bool train();
  /// A file that went bad in mid-run must not cost the steps since the last checkpoint.
  void save_what_is_trained();

  /// Of one step, the same on all ranks.
  struct BatchResult {
    double loss = 0;  // mean over the whole batch
    double grad_norm = 0;
    int stop_signal = 0;          // that some rank got, or 0
    int64_t first_bad_rank = -1;  // whose loss is not finite
    [[nodiscard]] bool finite() const;
  };

  [[nodiscard]] std::optional<std::filesystem::path> find_checkpoint() const;
  void resume(const std::filesystem::path& checkpoint);
  void measure_products();
  void check_resumed(const CheckpointState& state) const;
  [[nodiscard]] bool done() const;
  [[nodiscard]] SchedulePoint schedule_now() const;
  [[nodiscard]] int64_t real_bsz(const SchedulePoint& now) const;
  [[nodiscard]] int64_t total_steps() const;
  [[nodiscard]] report::SessionStart session_start() const;

  BatchResult forward_backward(int64_t real_bsz);
  /// This rank's share of the batch: its part of the mean loss. With `send`, gradients travel.
  double run_passes(int64_t real_bsz, bool send);
  /// How many targets of `rows` windows data.loss_mask counts.
  [[nodiscard]] double learned_tokens(int64_t first_row, int64_t rows) const;
  /// What is wrong with the files that this rank reads, or nothing.
  [[nodiscard]] std::string trouble_with_data() const;
  [[noreturn]] void stop_for_trouble(const std::string& own);
  /// "the gradient of NAME", with the rank where there are several; "no gradient".
  std::string place_of_nonfinite(const BatchResult& result);
  [[nodiscard]] bool is_main() const { return group_->is_main(); }
  void update(const SchedulePoint& now, const BatchResult& result);
  bool overflowed(const BatchResult& result);
  void skip_or_stop(const BatchResult& result);
  void log_step(const SchedulePoint& now, const BatchResult& result);
  void after_step();
  [[nodiscard]] ValidationPlan validation_plan() const;
  void validate();
  void sample();
  void save();
  [[nodiscard]] std::filesystem::path pth_path() const;
  void export_pth();
  void report_profile();
  void finish(bool trained);

  RunConfig config_;
  TrainOptions options_;
  std::shared_ptr<RankGroup> group_;
  std::unique_ptr<RunLock> lock_;  // held by rank 0 alone
  Dataset data_;
  std::shared_ptr<model::LanguageModel> model_;
  std::unique_ptr<ParallelOptimizer> optimizer_;
  Compute compute_;
  Schedule schedule_;
  LossScaler loss_scaler_;
  Progress progress_;
  std::optional<MetricsLog> metrics_;
  std::optional<ProgressLine> progress_line_;
  std::optional<StepProfile> profile_;
  double flops_per_token_ = 0;      // of matrix products (trainer/flops.h)
  double product_flops_per_s_ = 0;  // what this machine reaches in them
  int product_measurements_ = 0;
  int stop_signal_ = 0;
  std::chrono::steady_clock::time_point step_start_;
  std::array<double, 2> last_betas_{};
  double step_waited_s_ = 0;  // for the sums of gradients, in this step
  int64_t skipped_in_row_ = 0;
  int64_t saved_step_ = -1;      // step of the newest checkpoint
  int64_t validated_step_ = -1;  // step of the last validation
};

}  // namespace rwkv::trainer
