#include "trainer/trainer.h"

#include <spdlog/spdlog.h>
#include <torch/torch.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <utility>

#include "data/base/error.h"
#include "data/batch_loader.h"
#include "model/factory.h"
#include "model/generate.h"
#include "model/init.h"
#include "model/weights.h"
#include "trainer/evaluate.h"
#include "trainer/initial_weights.h"
#include "trainer/loss.h"
#include "trainer/signal.h"

namespace rwkv::trainer {
namespace {

bool due(int64_t step, int64_t every) { return every > 0 && step % every == 0; }

std::shared_ptr<model::LanguageModel> new_model(const RunConfig& config, double first_lr) {
  auto model = model::build_model(config.model);
  if (!config.train.init_from.empty() && !config.train.init_partial) return model;  // loaded whole
  const double emb_init = config.model.emb_init_is_lr ? first_lr : config.model.emb_init;
  model::init_weights(*model, static_cast<uint64_t>(config.train.seed), emb_init);
  return model;
}

std::unique_ptr<Adam> new_optimizer(model::LanguageModel& model, const RunConfig& config) {
  std::vector<OptimizedParameter> parameters;
  for (const auto& entry : model.named_parameters()) {
    if (!entry.value().requires_grad()) continue;  // optimizer.freeze
    parameters.push_back({entry.key(), entry.value(), 1.0, false});
  }
  assign_groups(parameters, config.optimizer, config.train.stage);
  return std::make_unique<Adam>(std::move(parameters), config.optimizer);
}

/// Rewrites one line of the terminal; silent where the output is no terminal.
void show_validation_progress(int64_t done, int64_t all) {
  if (::isatty(STDERR_FILENO) != 1) return;
  std::fprintf(stderr, done < all ? "\rvalidating: %lld of %lld windows\x1b[K" : "\r\x1b[K",
               static_cast<long long>(done), static_cast<long long>(all));
}

int64_t count_parameters(model::LanguageModel& model) {
  int64_t count = 0;
  for (const at::Tensor& parameter : model.parameters()) count += parameter.numel();
  return count;
}

}  // namespace

bool Trainer::BatchResult::finite() const {
  return std::isfinite(loss) && std::isfinite(grad_norm);
}

Trainer::Trainer(RunConfig config, TrainOptions options)
    : config_(with_sizes_of_initial_weights(std::move(config))),
      options_(options),
      lock_(config_.train.out_dir),
      data_(open_dataset(config_)),
      schedule_(config_.schedule, config_.optimizer, config_.train.ctx_len,
                config_.train.real_bsz(),
                mini_epochs(config_.train, data_.sampler->magic_prime())) {
  if (config_.train.threads > 0) at::set_num_threads(static_cast<int>(config_.train.threads));
  config_.model.vocab_size = data_.vocab_size;
  model_ = new_model(config_, schedule_.lr_init());
  freeze(*model_, config_.optimizer.freeze);
  optimizer_ = new_optimizer(*model_, config_);
  last_betas_ = schedule_now().betas;
  resume();
  spdlog::info("{} L{} C{} V{}: {:.2f}M parameters; {} training tokens; {} threads",
               config_.model.arch, config_.model.n_layer, config_.model.n_embd,
               config_.model.vocab_size, static_cast<double>(count_parameters(*model_)) / 1e6,
               data_.train->size(), at::get_num_threads());
}

ExitCode Trainer::run() {
  const StopSignals signals;
  metrics_.emplace(config_.train.out_dir, progress_.step);
  progress_line_.emplace(total_steps());
  if (options_.profile) profile_.emplace();
  const int64_t first_step = progress_.step;
  while (!done()) {
    step_start_ = std::chrono::steady_clock::now();
    const SchedulePoint now = schedule_now();
    const BatchResult result = forward_backward(real_bsz(now));
    if (result.finite()) {
      update(now, result);
    } else {
      skip_or_stop(result);
    }
    progress_.step += 1;
    progress_.samples += real_bsz(now);
    progress_.tokens += real_bsz(now) * config_.train.ctx_len;
    log_step(now, result);
    after_step();
    if (StopSignals::requested() != 0) {
      progress_line_->finish();
      save();
      spdlog::warn("stopped by signal {} after step {}; the same command goes on from there",
                   StopSignals::requested(), progress_.step);
      return kStoppedBySignal;
    }
  }
  finish(/*trained=*/progress_.step > first_step);
  return kFinished;
}

bool Trainer::done() const {
  const TrainConfig& t = config_.train;
  return (t.max_steps > 0 && progress_.step >= t.max_steps) ||
         (t.max_tokens > 0 && progress_.tokens >= t.max_tokens) || schedule_now().finished;
}

SchedulePoint Trainer::schedule_now() const {
  return schedule_.at(
      {.step = progress_.step, .tokens = progress_.tokens, .steps_since_start = progress_.step});
}

int64_t Trainer::real_bsz(const SchedulePoint& now) const {
  return now.real_bsz.value_or(config_.train.real_bsz());
}

int64_t Trainer::total_steps() const {
  const TrainConfig& t = config_.train;
  int64_t total = t.max_steps > 0 ? t.max_steps : std::numeric_limits<int64_t>::max();
  if (t.max_tokens > 0) {
    const int64_t tokens_per_step = real_bsz(schedule_now()) * t.ctx_len;
    const int64_t left = std::max<int64_t>(0, t.max_tokens - progress_.tokens);
    total = std::min(total, progress_.step + (left + tokens_per_step - 1) / tokens_per_step);
  }
  return total;
}

Trainer::BatchResult Trainer::forward_backward(int64_t real_bsz) {
  const TrainConfig& t = config_.train;
  const L2Wrap l2wrap{t.l2wrap, t.l2wrap_compat == L2WrapCompat::kV4neo};
  const int64_t micro_batches = real_bsz / t.micro_bsz;
  const at::Tensor inputs = at::empty({t.micro_bsz, t.ctx_len}, at::kLong);
  const at::Tensor targets = at::empty_like(inputs);
  const auto as_span = [](const at::Tensor& ids) {
    return std::span(ids.mutable_data_ptr<int64_t>(), static_cast<size_t>(ids.numel()));
  };
  BatchResult result;
  for (int64_t i = 0; i < micro_batches; ++i) {
    const auto first_ordinal = static_cast<uint64_t>(1 + progress_.samples + i * t.micro_bsz);
    data::fill_batch(*data_.train, *data_.sampler, first_ordinal, t.micro_bsz, t.ctx_len,
                     as_span(inputs), as_span(targets), config_.model.vocab_size);
    const at::Tensor loss = cross_entropy(model_->forward(inputs), targets, l2wrap);
    (loss / static_cast<double>(micro_batches)).backward();
    result.loss += loss.item<double>() / static_cast<double>(micro_batches);
  }
  result.grad_norm = optimizer_->gradient_norm();
  return result;
}

void Trainer::update(const SchedulePoint& now, const BatchResult& result) {
  if (now.betas != last_betas_ && config_.schedule.on_change == OnChange::kReset) {
    optimizer_->reset_moments();
  }
  last_betas_ = now.betas;
  optimizer_->step({now.lr, now.betas, now.weight_decay}, result.grad_norm);
  optimizer_->zero_grad();
  skipped_in_row_ = 0;
  constexpr double kKeep = 0.98;  // a memory of some fifty steps
  progress_.smoothed_loss = progress_.step == 0
                                ? result.loss
                                : kKeep * progress_.smoothed_loss + (1 - kKeep) * result.loss;
}

void Trainer::skip_or_stop(const BatchResult& result) {
  const std::string parameter = optimizer_->first_nonfinite_gradient();
  const std::string place = parameter.empty() ? "no gradient" : "the gradient of " + parameter;
  const std::string text = fmt::format(
      "step {}: loss {}, gradient norm {}: {} is not finite; samples {}..{}; no update was made",
      progress_.step + 1, result.loss, result.grad_norm, place, progress_.samples + 1,
      progress_.samples + real_bsz(schedule_now()));
  optimizer_->zero_grad();
  progress_line_->finish();
  if (skipped_in_row_ >= config_.train.skip_nonfinite) {
    throw NotFiniteError(text +
                         "; lower the learning rate, or allow skips with train.skip_nonfinite");
  }
  ++skipped_in_row_;
  spdlog::error("{} (skip {} of {} in a row)", text, skipped_in_row_, config_.train.skip_nonfinite);
}

void Trainer::log_step(const SchedulePoint& now, const BatchResult& result) {
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - step_start_;
  StepMetrics m;
  m.step = progress_.step;
  m.tokens = progress_.tokens;
  m.loss = result.loss;
  m.smoothed_loss = progress_.smoothed_loss;
  m.bits_per_byte = bits_per_byte(progress_.smoothed_loss, data_.train_bytes_per_token);
  if (data_.tokens_are_characters) m.bits_per_character = progress_.smoothed_loss / std::log(2.0);
  m.lr = now.lr;
  m.grad_norm = result.grad_norm;
  m.tokens_per_s = static_cast<double>(real_bsz(now) * config_.train.ctx_len) / elapsed.count();
  m.skipped = !result.finite();
  if (due(m.step, config_.train.log_every) || done()) metrics_->write(m);
  progress_line_->show(m);
  if (profile_ && progress_.step == 3) profile_->reset();
}

void Trainer::after_step() {
  data_.train->check_unchanged();
  if (due(progress_.step, config_.validation.every)) validate();
  if (due(progress_.step, config_.sample.every)) sample();
  if (due(progress_.step, config_.checkpoint.pth_every)) export_pth();
  if (!due(progress_.step, config_.checkpoint.every)) return;
  try {
    save();
  } catch (const UserError& error) {
    // The last checkpoint is intact; a disk that is full now may have room at the next save.
    progress_line_->finish();
    spdlog::error("checkpoint at step {} failed: {}; training goes on", progress_.step,
                  error.what());
  }
}

void Trainer::validate() {
  if (!data_.validation || validated_step_ == progress_.step) return;
  validated_step_ = progress_.step;
  progress_line_->finish();
  const ValidationConfig& v = config_.validation;
  const int64_t micro_bsz = v.micro_bsz > 0 ? v.micro_bsz : config_.train.micro_bsz;
  ValidationMetrics m;
  m.step = progress_.step;
  m.tokens = progress_.tokens;
  const ValidationPlan plan{v.windows, config_.train.ctx_len, micro_bsz};
  m.val_loss = validation_loss(*model_, *data_.validation, plan, show_validation_progress);
  m.val_bits_per_byte = bits_per_byte(m.val_loss, data_.validation_bytes_per_token);
  if (data_.tokens_are_characters) m.val_bits_per_character = m.val_loss / std::log(2.0);
  metrics_->write(m);
  std::string text = fmt::format("validation: loss {:.4f}", m.val_loss);
  if (m.val_bits_per_character) {
    text += fmt::format(", {:.3f} bits per character", *m.val_bits_per_character);
  }
  spdlog::info("{} after {:.2f}M tokens", text, static_cast<double>(m.tokens) / 1e6);
  if (m.val_bits_per_byte) std::printf("validation: %.3f bits per byte\n", *m.val_bits_per_byte);
  std::fflush(stdout);
}

void Trainer::sample() {
  if (!data_.vocabulary) return;
  progress_line_->finish();
  const SampleConfig& s = config_.sample;
  const model::GenerateOptions options{
      .sampling = {.temperature = s.temperature, .top_p = s.top_p},
      .tokens = s.tokens,
      .seed = static_cast<uint64_t>(config_.train.seed + progress_.step)};
  model::State state;
  const auto prompt = data_.vocabulary->encode(s.prompt);
  const auto ids = model::generate(*model_, prompt, options, state, [](int64_t) { return true; });
  std::printf("--- sample after step %lld ---\n%s\n---\n", static_cast<long long>(progress_.step),
              data_.vocabulary->decode(ids).c_str());
  std::fflush(stdout);
}

void Trainer::save() {
  if (saved_step_ == progress_.step) return;
  CheckpointState state;
  state.progress = progress_;
  state.optimizer_steps = optimizer_->steps();
  state.last_betas = last_betas_;
  state.config_yaml = dump_yaml(config_);
  state.data_fingerprint = data_.fingerprint;
  CheckpointStore(config_.train.out_dir)
      .save(state, *model_, *optimizer_, data_.vocabulary.get(), config_.checkpoint.keep_last);
  saved_step_ = progress_.step;
}

std::filesystem::path Trainer::pth_path() const {
  const bool staged = config_.train.stage > 0;
  const int64_t number = staged ? progress_.samples / data::kSamplesPerEpoch : progress_.step;
  return std::filesystem::path(config_.train.out_dir) / ("rwkv-" + std::to_string(number) + ".pth");
}

void Trainer::export_pth() {
  const std::filesystem::path path = pth_path();
  model::save_pth(*model_, path);
  progress_line_->finish();
  spdlog::info("wrote {}", path.string());
}

void Trainer::finish(bool trained) {
  progress_line_->finish();
  if (profile_) {
    std::fputs(profile_->table().c_str(), stdout);
    profile_.reset();
  }
  save();
  if (config_.checkpoint.export_pth && (trained || !std::filesystem::exists(pth_path())))
    export_pth();
  validate();
}

void Trainer::resume() {
  const CheckpointStore store(config_.train.out_dir);
  store.remove_leftovers();
  const auto newest = store.newest_valid(/*damaged_is_error=*/!options_.from_scratch);
  if (!newest) return load_initial_weights(config_, *model_);
  const CheckpointState state = read_checkpoint_state(*newest);
  check_resumed(state);
  load_checkpoint(*newest, *model_, *optimizer_);
  optimizer_->set_steps(state.optimizer_steps);
  progress_ = state.progress;
  saved_step_ = progress_.step;
  last_betas_ = state.last_betas;
  spdlog::info("going on from {} (step {}, {} tokens)", newest->string(), progress_.step,
               progress_.tokens);
}

void Trainer::check_resumed(const CheckpointState& state) const {
  RunConfig before = parse_run_config(state.config_yaml, "config.yaml of the checkpoint");
  for (const Difference& d : differences(before, config_)) {
    const bool fixed = d.key.starts_with("model.") || d.key == "train.ctx_len" ||
                       d.key == "train.seed" || d.key == "optimizer.freeze" ||
                       (d.key.starts_with("data.") && d.key != "data.path");
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
        "data.path: {} is not the file that the checkpoint was trained on (fingerprint {}, then "
        "{}); "
        "put that file back, or go on with --allow-data-change",
        printable(config_.data.path), data_.fingerprint, state.data_fingerprint);
  }
}

}  // namespace rwkv::trainer
