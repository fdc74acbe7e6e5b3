#include "trainer/trainer.h"

#include <ATen/record_function.h>
#include <spdlog/spdlog.h>
#include <torch/torch.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <utility>

#include "data/base/error.h"
#include "data/counter_rng.h"
#include "model/factory.h"
#include "model/generate.h"
#include "model/init.h"
#include "model/precision.h"
#include "model/weights.h"
#include "trainer/batch.h"
#include "trainer/config_fields.h"
#include "trainer/evaluate.h"
#include "trainer/flops.h"
#include "trainer/initial_weights.h"
#include "trainer/loss.h"
#include "trainer/machine_facts.h"
#include "trainer/machine_speed.h"
#include "trainer/plan.h"
#include "trainer/signal.h"
#include "trainer/version.h"

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

/// Moves the float32 `model` to where and what it computes in; the optimizer keeps what its
/// rounding to 16 bits would lose.
std::unique_ptr<Adam> new_optimizer(model::LanguageModel& model, const RunConfig& config,
                                    const Compute& compute) {
  std::vector<OptimizedParameter> parameters;
  for (const auto& entry : model.named_parameters()) {
    OptimizedParameter parameter{entry.key(), entry.value()};
    if (compute.dtype != at::kFloat && !model::stays_float32(entry.key())) {
      parameter.master =
          entry.value().detach().to(compute.device, at::kFloat, /*non_blocking=*/false,
                                    /*copy=*/true);
    }
    parameters.push_back(std::move(parameter));
  }
  model::convert_parameters(model, compute.dtype, compute.device);
  assign_groups(parameters, config.optimizer, config.train.stage);
  return std::make_unique<Adam>(std::move(parameters), config.optimizer);
}

/// A prompt that cannot be read is an error now, not when the first sample is due.
void check_prompt(const SampleConfig& sample, const data::Vocabulary* vocabulary) {
  if (sample.every == 0 || vocabulary == nullptr) return;
  if (vocabulary->encode(sample.prompt).empty()) {
    user_error("sample.prompt: it is empty; give at least one character to go on from");
  }
}

/// Rewrites one line of the terminal; silent where the output is no terminal.
void show_validation_progress(int64_t done, int64_t all) {
  if (::isatty(STDERR_FILENO) != 1) return;
  std::fprintf(stderr, done < all ? "\rvalidating: %lld of %lld windows\x1b[K" : "\r\x1b[K",
               static_cast<long long>(done), static_cast<long long>(all));
}

std::string type_name(at::ScalarType type) {
  if (type == at::kFloat) return "fp32";
  if (type == at::kBFloat16) return "bf16";
  return type == at::kHalf ? "fp16" : c10::toString(type);
}

/// Allocating more than there is takes a minute of paging before the kernel ends the process.
void warn_of_memory(const RunConfig& config) {
  if (config.train.device != "cpu" || config.train.stage == 1) return;
  const int64_t memory = read_memory("/").usable_total();
  const std::string warning = memory > 0 ? check_memory(config, static_cast<double>(memory)) : "";
  if (!warning.empty()) spdlog::warn("{}", warning);
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
      compute_(set_up_compute(config_.train)),
      schedule_(config_.schedule, config_.optimizer, config_.train.ctx_len,
                config_.train.real_bsz(),
                mini_epochs(config_.train, data_.scheduled_samples(config_.data))) {
  check_prompt(config_.sample, data_.vocabulary.get());
  config_.model.vocab_size = data_.vocab_size;
  warn_of_memory(config_);
  model_ = new_model(config_, schedule_.lr_init());
  freeze(*model_, config_.optimizer.freeze);
  const auto checkpoint = find_checkpoint();
  if (!checkpoint) {
    check_initial_vocabulary(config_, data_.vocabulary.get());
    load_initial_weights(config_, *model_);
  }
  optimizer_ = new_optimizer(*model_, config_, compute_);
  if (config_.train.precision == Precision::kFp16) {
    loss_scaler_ = {.scale = config_.train.loss_scale, .enabled = true};
  }
  last_betas_ = schedule_now().betas;
  if (checkpoint) resume(*checkpoint);
  spdlog::info("{} L{} C{} V{}: {:.2f}M parameters, {} on {}; {} training tokens; {} threads",
               config_.model.arch, config_.model.n_layer, config_.model.n_embd,
               config_.model.vocab_size, static_cast<double>(count_parameters(*model_)) / 1e6,
               name_of(kPrecisionNames, config_.train.precision), config_.train.device,
               data_.train->size(), at::get_num_threads());
}

ExitCode Trainer::run() {
  if (config_.train.stage == 1) return write_initial_weights();
  const StopSignals signals;
  metrics_.emplace(config_.train.out_dir, progress_.step, config_.train.tensorboard);
  RunRecord record(config_.train.out_dir, session_start(), progress_.step);
  progress_line_.emplace(total_steps());
  if (!done()) measure_products();
  if (options_.profile) {
    profile_.emplace(std::filesystem::path(config_.train.out_dir) / "trace.json");
  }
  const int64_t first_step = progress_.step;
  bool stopped = false;
  try {
    stopped = train();
  } catch (const UserError&) {
    save_what_is_trained();
    throw;
  }
  if (stopped) {
    report_profile();
    save();
    record.end(fmt::format("stopped by signal {}", StopSignals::requested()));
    spdlog::warn("stopped by signal {} after step {}; the same command goes on from there",
                 StopSignals::requested(), progress_.step);
    return kStoppedBySignal;
  }
  if (progress_.step == first_step && first_step > 0) {
    spdlog::info("{} is finished at step {}; raise train.max_steps to go on",
                 printable(config_.train.out_dir), progress_.step);
  }
  finish(/*trained=*/progress_.step > first_step);
  record.end("finished");
  return kFinished;
}

ExitCode Trainer::write_initial_weights() {
  const std::filesystem::path folder = config_.train.out_dir;
  if (progress_.step > 0) {
    user_error(
        "train.stage: 1 writes initial weights, but {} holds a checkpoint of step {}; choose "
        "another "
        "train.out_dir, or stage 2 or 3 to go on with it",
        printable(folder.string()), progress_.step);
  }
  const std::filesystem::path path = folder / "rwkv-init.pth";
  model::save_pth(*model_, path);
  spdlog::info("wrote {}; train it with train.init_from: {} and train.stage: 2 or 3", path.string(),
               path.string());
  return kFinished;
}

bool Trainer::train() {
  while (!done()) {
    if (profile_) profile_->begin_step(progress_.step + 1);
    step_start_ = std::chrono::steady_clock::now();
    const SchedulePoint now = schedule_now();
    const BatchResult result = forward_backward(real_bsz(now));
    if (result.finite()) {
      update(now, result);
    } else if (!overflowed(result)) {
      skip_or_stop(result);
    }
    progress_.step += 1;
    progress_.samples += real_bsz(now);
    progress_.tokens += real_bsz(now) * config_.train.ctx_len;
    log_step(now, result);
    after_step();
    if (StopSignals::requested() != 0) return true;
  }
  return false;
}

void Trainer::save_what_is_trained() {
  progress_line_->finish();
  if (progress_.step == 0) return;
  try {
    save();
  } catch (const UserError& error) {
    spdlog::error("checkpoint at step {} failed: {}", progress_.step, error.what());
  }
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

report::SessionStart Trainer::session_start() const {
  report::SessionStart session;
  session.step = progress_.step;
  session.version = version_text();
  session.machine = report::this_machine();
  session.threads = at::get_num_threads();
  session.device = config_.train.device;
  session.parameters = count_parameters(*model_);
  session.training_tokens = data_.train->size();
  for (const FieldText& field : list_fields(config_)) {
    session.config.emplace_back(field.key, field.value);
  }
  return session;
}

Trainer::BatchResult Trainer::forward_backward(int64_t real_bsz) {
  const TrainConfig& t = config_.train;
  const L2Wrap l2wrap{t.l2wrap, t.l2wrap_compat == L2WrapCompat::kV4neo};
  const int64_t micro_batches = real_bsz / t.micro_bsz;
  at::Tensor loss_sum = at::zeros({}, at::TensorOptions(compute_.device).dtype(at::kDouble));
  for (int64_t i = 0; i < micro_batches; ++i) {
    const auto first_ordinal = static_cast<uint64_t>(1 + progress_.samples + i * t.micro_bsz);
    const Batch batch =
        training_batch(data_, first_ordinal, t.micro_bsz, t.ctx_len, compute_.device);
    model_->training_options = {
        .grad_cp = t.grad_cp,
        .dropout = t.dropout,
        .dropout_seed = data::random_bits(static_cast<uint64_t>(t.seed), first_ordinal, 1)};
    const at::Tensor loss =
        cross_entropy(model_->forward(batch.inputs), batch.targets, l2wrap, batch.mask);
    (loss * (loss_scaler_.scale / static_cast<double>(micro_batches))).backward();
    if (micro_batches > 1) optimizer_->accumulate_gradients();
    loss_sum += loss.detach().to(at::kDouble) / static_cast<double>(micro_batches);
  }
  return {.loss = loss_sum.item<double>(),
          .grad_norm = optimizer_->gradient_norm() / loss_scaler_.scale};
}

void Trainer::update(const SchedulePoint& now, const BatchResult& result) {
  if (now.betas != last_betas_ && config_.schedule.on_change == OnChange::kReset) {
    optimizer_->reset_moments();
  }
  last_betas_ = now.betas;
  optimizer_->step({now.lr, now.betas, now.weight_decay}, result.grad_norm, loss_scaler_.scale);
  optimizer_->zero_grad();
  loss_scaler_.update(/*overflow=*/false);
  skipped_in_row_ = 0;
  constexpr double kKeep = 0.98;               // a memory of some fifty steps
  double& smoothed = progress_.smoothed_loss;  // 0 before the first update
  smoothed = smoothed == 0 ? result.loss : kKeep * smoothed + (1 - kKeep) * result.loss;
}

bool Trainer::overflowed(const BatchResult& result) {
  if (!loss_scaler_.enabled || !std::isfinite(result.loss) || loss_scaler_.at_floor()) return false;
  const double before = loss_scaler_.scale;
  loss_scaler_.update(/*overflow=*/true);
  optimizer_->zero_grad();
  progress_line_->finish();
  spdlog::info("step {}: fp16 gradients overflowed at loss scale {}; no update was made, next {}",
               progress_.step + 1, before, loss_scaler_.scale);
  return true;
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
    const char* mend = loss_scaler_.enabled && std::isfinite(result.loss)
                           ? "; the loss scale is at its floor of 1: train in bf16 or fp32"
                           : "; lower the learning rate, or allow skips with train.skip_nonfinite";
    throw NotFiniteError(text + mend);
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
  m.smoothed_loss = progress_.smoothed_loss != 0 ? progress_.smoothed_loss : result.loss;
  m.bits_per_byte = bits_per_byte(m.smoothed_loss, data_.train_bytes_per_token);
  if (data_.tokens_are_characters) m.bits_per_character = m.smoothed_loss / std::log(2.0);
  m.lr = now.lr;
  m.grad_norm = result.grad_norm;
  m.tokens_per_s = static_cast<double>(real_bsz(now) * config_.train.ctx_len) / elapsed.count();
  const auto mfu = [&] { return m.tokens_per_s * flops_per_token_ / product_flops_per_s_; };
  // More than all: other programs were in the way when the yardstick was made.
  if (mfu() > 1 && product_measurements_ < 3) measure_products();
  // Products measured on a busy machine three times over leave no honest share to show.
  if (mfu() <= 1) m.mfu = mfu();
  m.skipped = !result.finite();
  if (due(m.step, config_.train.log_every) || done()) metrics_->write(m);
  progress_line_->show(m);
}

void Trainer::after_step() {
  RECORD_USER_SCOPE("rwkv::after_step");
  data_.train->check_unchanged();
  if (data_.general) data_.general->check_unchanged();
  if (data_.loss_mask) data_.loss_mask->check_unchanged();
  if (due(progress_.step, config_.validation.every)) validate();
  if (due(progress_.step, config_.sample.every)) sample();
  // The last checkpoint is intact; a disk that is full now may have room at the next save.
  const auto try_to = [this](const char* what, const auto& write) {
    try {
      write();
    } catch (const UserError& error) {
      progress_line_->finish();
      spdlog::error("{} at step {} failed: {}; training goes on", what, progress_.step,
                    error.what());
    }
  };
  if (due(progress_.step, config_.checkpoint.pth_every))
    try_to("rwkv-N.pth", [&] { export_pth(); });
  if (due(progress_.step, config_.checkpoint.every)) try_to("checkpoint", [&] { save(); });
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
  const ValidationPlan plan{v.windows, config_.train.ctx_len, micro_bsz,
                            data_.validation_loss_mask.get()};
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
      .seed = static_cast<uint64_t>(config_.train.seed) + static_cast<uint64_t>(progress_.step)};
  model::State state;
  const auto prompt = data_.vocabulary->encode(s.prompt);
  const auto ids = model::generate(*model_, prompt, options, state, [](int64_t) { return true; });
  const std::string text = data_.vocabulary->decode(ids);
  std::printf("--- sample after step %lld ---\n%s\n---\n", static_cast<long long>(progress_.step),
              text.c_str());
  std::fflush(stdout);
  metrics_->write(report::SampleText{progress_.step, s.prompt, text});
}

void Trainer::save() {
  if (saved_step_ == progress_.step) return;
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
  if (config_.model.head_qk_reduce == model::HeadQkReduce::kMax) {
    spdlog::warn("{} cannot say head_qk_reduce: max; programs that read it will sum",
                 path.string());
  }
}

void Trainer::report_profile() {
  progress_line_->finish();
  if (!profile_) return;
  std::fputs(profile_->report().c_str(), stdout);
  std::fflush(stdout);
  profile_.reset();
}

void Trainer::finish(bool trained) {
  report_profile();
  save();
  if (config_.checkpoint.export_pth && (trained || !std::filesystem::exists(pth_path())))
    export_pth();
  validate();
}

/// The yardstick of StepMetrics::mfu, in the type and with the threads that training uses.
void Trainer::measure_products() {
  constexpr double kBudgetS = 0.15;
  const at::Tensor weight = model_->named_parameters()["head.weight"];
  const ProductRate rate =
      trainer::measure_products(weight.scalar_type(), weight.device(), kBudgetS);
  flops_per_token_ = model_flops_per_token(*model_, config_.train.ctx_len);
  product_flops_per_s_ = std::max(product_flops_per_s_, rate.flops_per_s);
  ++product_measurements_;
  progress_line_->finish();
  spdlog::info("matrix products in {}: {:.0f} GFLOP/s (size {}); a token takes {:.4f} GFLOP",
               type_name(weight.scalar_type()), rate.flops_per_s / 1e9, rate.size,
               flops_per_token_ / 1e9);
}

std::optional<std::filesystem::path> Trainer::find_checkpoint() const {
  const CheckpointStore store(config_.train.out_dir);
  store.remove_leftovers();
  return store.newest_valid(/*damaged_is_error=*/!options_.from_scratch);
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
        "data.path: {} is not the file that the checkpoint was trained on (fingerprint {}, then "
        "{}); "
        "put that file back, or go on with --allow-data-change",
        printable(config_.data.path), data_.fingerprint, state.data_fingerprint);
  }
}

}  // namespace rwkv::trainer
