// How a run is saved and taken up again.
#include <spdlog/spdlog.h>

#include "data/base/error.h"
#include "trainer/distributed/agreement.h"
#include "trainer/trainer.h"

namespace rwkv::trainer {

void Trainer::save() {
  if (saved_step_ == progress_.step) return;
  check_for_drift(*group_, *model_, progress_.step);
  CheckpointState state;
  state.progress = progress_;
  state.optimizer_steps = optimizer_->steps();
  state.last_betas = last_betas_;
  state.loss_scaler = loss_scaler_;
  state.config_yaml = dump_yaml(config_);
  state.data_fingerprint = data_.fingerprint;
  CheckpointStore(config_.train.out_dir)
      .save(state, *optimizer_, data_.vocabulary.get(), config_.checkpoint.keep_last);
  saved_step_ = progress_.step;
}

std::optional<std::filesystem::path> Trainer::find_checkpoint() const {
  std::string found;
  if (is_main()) {
    const CheckpointStore store(config_.train.out_dir);
    store.remove_leftovers();
    found = store.newest_valid(/*damaged_is_error=*/!options_.from_scratch).value_or("").string();
  }
  found = group_->from_main("the search for a checkpoint", found);
  if (found.empty()) return std::nullopt;
  return found;
}

void Trainer::resume(const std::filesystem::path& checkpoint) {
  const CheckpointState state = read_checkpoint_state(checkpoint);
  check_resumed(state);
  load_checkpoint(checkpoint, *model_, *optimizer_);
  optimizer_->set_steps(state.optimizer_steps);
  progress_ = state.progress;
  saved_step_ = progress_.step;
  last_betas_ = state.last_betas;
  if (loss_scaler_.enabled && state.loss_scaler.enabled) loss_scaler_ = state.loss_scaler;
  spdlog::info("going on from {} (step {}, {} tokens)", checkpoint.string(), progress_.step,
               progress_.tokens);
}

void Trainer::check_resumed(const CheckpointState& state) const {
  RunConfig before = parse_run_config(state.config_yaml, "config.yaml of the checkpoint");
  for (const Difference& d : differences(before, config_)) {
    const bool fixed = d.key.starts_with("model.") || d.key == "train.ctx_len" ||
                       d.key == "train.seed" || d.key == "optimizer.freeze" ||
                       (d.key.starts_with("data.") && d.key != "data.path" &&
                        d.key != "data.general_path" && d.key != "data.loss_mask");
    if (fixed) {
      user_error(
          "{}: the checkpoint in {} was trained with {}, the configuration says {}; set it back, "
          "or "
          "choose another train.out_dir",
          d.key, config_.train.out_dir, d.old_value, d.new_value);
    }
    spdlog::info("{} changed since the checkpoint: {} -> {}", d.key, d.old_value, d.new_value);
  }
  if (state.data_fingerprint != data_.fingerprint && !options_.allow_data_change) {
    user_error(
        "data.path: {} and data.loss_mask are not what the checkpoint was trained on (fingerprint "
        "{}, then {}); put those files back, or go on with --allow-data-change",
        printable(config_.data.path), data_.fingerprint, state.data_fingerprint);
  }
}

}  // namespace rwkv::trainer
