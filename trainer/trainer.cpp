#include "trainer/trainer.h"

#include <ATen/record_function.h>
#include <spdlog/spdlog.h>
#include <torch/torch.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "data/base/atomic_file.h"
#include "data/base/error.h"
#include "data/counter_rng.h"
#include "data/loss_mask.h"
#include "model/factory.h"
#include "model/init.h"
#include "model/precision.h"
#include "model/weights.h"
#include "trainer/batch.h"
#include "trainer/config_fields.h"
#include "trainer/distributed/agreement.h"
#include "trainer/distributed/bucket_layout.h"
#include "trainer/initial_weights.h"
#include "trainer/loss.h"
#include "trainer/machine_facts.h"
#include "trainer/plan.h"
#include "trainer/signal.h"
#include "trainer/version.h"

namespace rwkv::trainer {
namespace {

std::shared_ptr<model::LanguageModel> new_model(const RunConfig& config, double first_lr) {
  auto model = model::build_model(config.model);
  if (!config.train.init_from.empty() && !config.train.init_partial) return model;  // loaded whole
  const double emb_init = config.model.emb_init_is_lr ? first_lr : config.model.emb_init;
  model::init_weights(*model, static_cast<uint64_t>(config.train.seed), emb_init);
  return model;
}

/// Moves the float32 `model` to where and what it computes in; the optimizer keeps what its
/// rounding to 16 bits would lose.
std::unique_ptr<ParallelOptimizer> new_optimizer(model::LanguageModel& model, RankGroup& group,
                                                 const RunConfig& config, const Compute& compute) {
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
  return std::make_unique<ParallelOptimizer>(group, std::move(parameters), config.optimizer,
                                             config.distributed);
}

/// A prompt that cannot be read is an error now, not when the first sample is due.
void check_prompt(const SampleConfig& sample, const data::Vocabulary* vocabulary) {
  if (sample.every == 0 || vocabulary == nullptr) return;
  if (vocabulary->encode(sample.prompt).empty()) {
    user_error("sample.prompt: it is empty; give at least one character to go on from");
  }
}

/// Allocating more than there is takes a minute of paging before the kernel ends the process.
void warn_of_memory(const RunConfig& config, const RankGroup& group) {
  // Frozen parameters have neither gradients nor moments, which the count below supposes.
  if (!config.optimizer.freeze.empty()) return;
  if (config.train.device != "cpu" || config.train.stage == 1) return;
  const auto memory = static_cast<double>(read_memory("/").usable_total());
  if (memory <= 0) return;  // not known
  const std::string warning = check_memory(
      config, memory / static_cast<double>(group.local_world_size()), group.world_size());
  if (!warning.empty()) spdlog::warn("{}", warning);
}

/// The ranks of a run share a folder: one of them locks it, after all have agreed on its name.
std::unique_ptr<RunLock> lock_folder(RankGroup& group, const RunConfig& config) {
  agree_on_config(group, config);
  check_world_size(config, group.world_size());
  if (!group.is_main()) return nullptr;
  return std::make_unique<RunLock>(config.train.out_dir);
}

/// The run's folder keeps a copy of the tokenizer, so that its weight files are read with it.
void keep_tokenizer(const RunConfig& config, const data::Vocabulary* vocabulary) {
  if (config.data.tokenizer.empty() || vocabulary == nullptr) return;
  const data::VocabularyFile file = vocabulary->file();
  if (file.name.empty()) return;
  write_file_atomically(std::filesystem::path(config.train.out_dir) / file.name, file.text);
}

/// Rank 0 goes first: it may write the vocabulary that the others read.
Dataset open_data(RankGroup& group, const RunConfig& config) {
  Dataset data;
  group.main_first("the opening of the data", [&] { data = open_dataset(config); });
  agree_on(group, "data.path", data.fingerprint, "give all ranks the same file");
  return data;
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
      options_(std::move(options)),
      group_(options_.group),
      lock_(lock_folder(*group_, config_)),
      data_(open_data(*group_, config_)),
      compute_(set_up_compute(config_.train, group_->local_rank(), group_->local_world_size())),
      schedule_(config_.schedule, config_.optimizer, config_.train.ctx_len,
                config_.train.real_bsz(),
                mini_epochs(config_.train, data_.scheduled_samples(config_.data))) {
  check_prompt(config_.sample, data_.vocabulary.get());
  if (data_.validation) check_validation_mask(*data_.validation, validation_plan());
  config_.model.vocab_size = data_.vocab_size;
  warn_of_memory(config_, *group_);
  model_ = new_model(config_, schedule_.lr_init());
  freeze(*model_, config_.optimizer.freeze);
  const auto checkpoint = find_checkpoint();
  if (!checkpoint) {
    check_initial_vocabulary(config_, data_.vocabulary.get());
    load_initial_weights(config_, *model_);
  }
  if (compute_.device.is_cuda()) group_->use_cuda(compute_.device);
  optimizer_ = new_optimizer(*model_, *group_, config_, compute_);
  if (config_.train.precision == Precision::kFp16) {
    loss_scaler_ = {.scale = config_.train.loss_scale, .enabled = true};
  }
  last_betas_ = schedule_now().betas;
  if (checkpoint) resume(*checkpoint);
  if (group_->is_main()) keep_tokenizer(config_, data_.vocabulary.get());
  agree_on(*group_, "the weights at the start", weights_hash(*model_),
           "start all ranks with the same program, files and kind of machine");
  spdlog::info("{} L{} C{} V{}: {:.2f}M parameters, {} on {}; {} training tokens; {}{} threads",
               config_.model.arch, config_.model.n_layer, config_.model.n_embd,
               config_.model.vocab_size, static_cast<double>(count_parameters(*model_)) / 1e6,
               name_of(kPrecisionNames, config_.train.precision), config_.train.device,
               data_.train->size(),
               group_->is_alone() ? "" : fmt::format("{} ranks of ", group_->world_size()),
               at::get_num_threads());
}

ExitCode Trainer::run() {
  if (config_.train.stage == 1) return write_initial_weights();
  const StopSignals signals;
  std::optional<RunRecord> record;
  if (is_main()) {
    metrics_.emplace(config_.train.out_dir, progress_.step, config_.train.tensorboard);
    record.emplace(config_.train.out_dir, session_start(), progress_.step);
  }
  progress_line_.emplace(total_steps());
  if (!done() && is_main()) measure_products();
  if (options_.profile && is_main()) {
    profile_.emplace(std::filesystem::path(config_.train.out_dir) / "trace.json");
  }
  const int64_t first_step = progress_.step;
  bool stopped = false;
  try {
    stopped = train();
  } catch (const CommonError&) {
    save_what_is_trained();
    throw;
  } catch (const UserError&) {
    // A rank that fails alone cannot save: the others do not know.
    if (group_->is_alone()) save_what_is_trained();
    throw;
  }
  if (stopped) {
    report_profile();
    save();
    if (record) record->end(fmt::format("stopped by signal {}", stop_signal_));
    spdlog::warn("stopped by signal {} after step {}; the same command goes on from there",
                 stop_signal_, progress_.step);
    return kStoppedBySignal;
  }
  if (progress_.step == first_step && first_step > 0) {
    spdlog::info("{} is finished at step {}; raise train.max_steps to go on",
                 printable(config_.train.out_dir), progress_.step);
  }
  finish(/*trained=*/progress_.step > first_step);
  if (record) record->end("finished");
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
  if (is_main()) model::save_pth(*model_, path);
  spdlog::info("wrote {}; train it with train.init_from: {} and train.stage: 2 or 3", path.string(),
               path.string());
  return kFinished;
}

bool Trainer::train() {
  while (!done()) {
    group_->at_step(progress_.step + 1);
    if (options_.before_step) options_.before_step(*this);
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
    stop_signal_ = group_->is_alone() ? StopSignals::requested() : result.stop_signal;
    if (stop_signal_ != 0) return true;
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
  const double own_loss = run_passes(real_bsz, /*send=*/true);
  const std::string trouble = trouble_with_data();
  const std::array<double, 3> own = {own_loss, static_cast<double>(StopSignals::requested()),
                                     trouble.empty() ? 0.0 : 1.0};
  bool trouble_anywhere = false;
  BatchResult result;
  const std::vector<double> all = group_->gather(own);
  for (size_t i = 0; i < all.size(); i += own.size()) {
    result.loss += all[i];
    if (!std::isfinite(all[i]) && result.first_bad_rank < 0) {
      result.first_bad_rank = static_cast<int64_t>(i / own.size());
    }
    if (result.stop_signal == 0) result.stop_signal = static_cast<int>(all[i + 1]);
    trouble_anywhere = trouble_anywhere || all[i + 2] != 0;
  }
  result.grad_norm = optimizer_->gradient_norm() / loss_scaler_.scale;
  step_waited_s_ = optimizer_->waited_s();
  if (trouble_anywhere) stop_for_trouble(trouble);
  return result;
}

std::string Trainer::trouble_with_data() const {
  try {
    data_.train->check_unchanged();
    if (data_.general) data_.general->check_unchanged();
    if (data_.loss_mask) data_.loss_mask->check_unchanged();
  } catch (const UserError& error) {
    return error.what();
  }
  return {};
}

void Trainer::stop_for_trouble(const std::string& own) {
  optimizer_->zero_grad();
  const auto texts = group_->exchange("the report of trouble", own);
  const auto first =
      std::find_if(texts.begin(), texts.end(), [](const auto& text) { return !text.empty(); });
  throw CommonError(group_->is_alone()
                        ? *first
                        : fmt::format("{}: {}", group_->name_of(first - texts.begin()), *first));
}

double Trainer::learned_tokens(int64_t first_row, int64_t rows) const {
  std::vector<float> weights(static_cast<size_t>(rows * config_.train.ctx_len));
  data::fill_loss_mask(*data_.loss_mask, *data_.sampler, static_cast<uint64_t>(1 + first_row), rows,
                       config_.train.ctx_len, weights);
  return std::accumulate(weights.begin(), weights.end(), 0.0);
}

double Trainer::run_passes(int64_t real_bsz, bool send) {
  const TrainConfig& t = config_.train;
  const int64_t own_rows = real_bsz / group_->world_size();
  const int64_t first_row = progress_.samples + group_->rank() * own_rows;
  // With a mask the loss is the mean over the learned tokens of the whole step, however its windows
  // are split into passes and over ranks.
  const double learned = data_.loss_mask ? group_->sum(learned_tokens(first_row, own_rows)) : 0;
  const std::vector<PassRows> passes = split_into_passes(own_rows, t.micro_bsz);
  at::Tensor loss_sum = at::zeros({}, at::TensorOptions(compute_.device).dtype(at::kDouble));
  for (const PassRows& pass : passes) {
    const auto rows = static_cast<double>(pass.rows);
    const auto first_ordinal = static_cast<uint64_t>(1 + first_row + pass.begin);
    const Batch batch = training_batch(data_, first_ordinal, pass.rows, t.ctx_len, compute_.device);
    model_->training_options = {
        .grad_cp = t.grad_cp,
        .dropout = t.dropout,
        .dropout_seed = data::random_bits(static_cast<uint64_t>(t.seed), first_ordinal, 1)};
    // The original's term is the same for each pass of micro_bsz windows; smaller ones share it.
    const bool original = t.l2wrap_compat == L2WrapCompat::kV4neo;
    const double share_of_rows = rows / static_cast<double>(real_bsz);
    double share = share_of_rows;  // of the step's loss
    if (learned > 0) {
      const double own = learned_tokens(first_row + pass.begin, pass.rows);
      if (own > 0) share = own / learned;  // without any, the loss of the pass is 0
    }
    const double l2wrap_share =
        original ? rows / static_cast<double>(t.micro_bsz) : share_of_rows / share;
    const L2Wrap l2wrap{t.l2wrap * l2wrap_share, original};
    const double loss_factor = loss_scaler_.scale * share;
    const at::Tensor loss = head_cross_entropy(model::forward_to_head(*model_, batch.inputs),
                                               batch.targets, l2wrap, batch.mask, loss_factor);
    optimizer_->before_backward(/*last=*/send && &pass == &passes.back());
    (loss * loss_factor).backward();
    optimizer_->after_backward(std::ssize(passes));
    loss_sum += loss.detach().to(at::kDouble) * share;
  }
  return loss_sum.item<double>();
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

std::string Trainer::place_of_nonfinite(const BatchResult& result) {
  if (group_->is_alone()) {
    const std::string parameter = optimizer_->first_nonfinite_gradient();
    return parameter.empty() ? "no gradient" : "the gradient of " + parameter;
  }
  // The sums do not tell where it came from; each rank computes its own share again.
  optimizer_->zero_grad();
  run_passes(real_bsz(schedule_now()), /*send=*/false);
  const auto names = group_->exchange("the search for what is not finite",
                                      optimizer_->first_nonfinite_own_gradient());
  const auto bad =
      std::find_if(names.begin(), names.end(), [](const auto& n) { return !n.empty(); });
  const int64_t rank = bad != names.end() ? bad - names.begin() : result.first_bad_rank;
  if (rank < 0) return "the sum over the ranks, but no rank's own gradient,";
  const std::string where = "on " + group_->name_of(rank);
  return bad == names.end() ? "the loss " + where
                            : fmt::format("the gradient of {} {}", *bad, where);
}

void Trainer::skip_or_stop(const BatchResult& result) {
  const std::string place = place_of_nonfinite(result);
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

}  // namespace rwkv::trainer
