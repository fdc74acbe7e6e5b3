#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <utility>

#include "data/vocabulary.h"
#include "model/language_model.h"
#include "trainer/distributed/parallel_optimizer.h"
#include "trainer/loss_scaler.h"

namespace rwkv::trainer {

/// Where a run stands. All of it is stored in every checkpoint.
struct Progress {
  int64_t step = 0;     // optimizer updates done or skipped
  int64_t tokens = 0;   // tokens trained on
  int64_t samples = 0;  // windows trained on: position of the sampler
  double smoothed_loss = 0;
};

/// state.json of a checkpoint.
struct CheckpointState {
  Progress progress;
  int64_t optimizer_steps = 0;         // Adam's t
  LossScaler loss_scaler;              // of float16 training
  std::array<double, 2> last_betas{};  // of the last update: a change is noticed across a restart
  std::string config_yaml;             // the whole effective configuration
  std::string data_fingerprint;
  std::string program_version;
};

/// Checkpoints of one run, folders FOLDER/step-NNNNNNNN:
///   model.safetensors                   weights (fp32 masters) by their released names
///   optim-RRRRR-of-WWWWW.safetensors    NAME.exp_avg, NAME.exp_avg_sq: each parameter's in one of
///                                       the files, which the W ranks of the run wrote
///   state.json, config.yaml             CheckpointState
///   vocab.json                          for character models
///   manifest.json                       written last: size and CRC-32C of every other file
/// Written as step-N.tmp, synced, renamed; FOLDER/latest is a hint only. docs/formats.md describes
/// the files.
class CheckpointStore {
 public:
  explicit CheckpointStore(std::filesystem::path folder) : folder_(std::move(folder)) {}

  /// Writes a checkpoint and then deletes older ones beyond `keep_last`, never the newest valid
  /// one. All ranks write a part and must share the folder; the checkpoint appears under its name
  /// when every part is on disk. Throws UserError on every rank when one of them cannot write;
  /// checkpoints written before stay as they are.
  void save(const CheckpointState& state, ParallelOptimizer& optimizer,
            const data::Vocabulary* vocabulary, int64_t keep_last) const;

  /// The newest folder whose files agree with its manifest. Damaged ones are skipped with a warning
  /// and kept. Throws UserError when there are checkpoints but none is valid and
  /// `damaged_is_error`.
  [[nodiscard]] std::optional<std::filesystem::path> newest_valid(bool damaged_is_error) const;

  /// Removes step-*.tmp folders that an interrupted save left behind.
  void remove_leftovers() const;

 private:
  std::filesystem::path folder_;
};

/// Whether `folder` is a checkpoint, whole or damaged; false where it cannot be looked into.
bool is_checkpoint(const std::filesystem::path& folder);

/// What is wrong with a checkpoint folder, or an empty text when it is whole. Reads every byte.
std::string checkpoint_damage(const std::filesystem::path& checkpoint);

CheckpointState read_checkpoint_state(const std::filesystem::path& checkpoint);

/// Restores weights and moments, whatever the number of ranks that wrote them. Throws UserError
/// listing every tensor that is missing or has another shape.
void load_checkpoint(const std::filesystem::path& checkpoint, model::LanguageModel& model,
                     ParallelOptimizer& optimizer);

}  // namespace rwkv::trainer
