// What a run shows and writes beside its checkpoints.
#include <ATen/record_function.h>
#include <spdlog/spdlog.h>
#include <torch/torch.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "data/base/error.h"
#include "model/generate.h"
#include "model/weights.h"
#include "trainer/distributed/agreement.h"
#include "trainer/evaluate.h"
#include "trainer/flops.h"
#include "trainer/machine_speed.h"
#include "trainer/trainer.h"

namespace rwkv::trainer {
namespace {

bool due(int64_t step, int64_t every) { return every > 0 && step % every == 0; }

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

}  // namespace

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
  if (!is_main()) return;
  if (!group_->is_alone()) m.wait_s = step_waited_s_;
  const auto ranks = static_cast<double>(group_->world_size());
  const auto mfu = [&] { return m.tokens_per_s * flops_per_token_ / product_flops_per_s_ / ranks; };
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
  if (due(progress_.step, config_.distributed.drift_every)) {
    check_for_drift(*group_, *model_, progress_.step);
  }
  if (due(progress_.step, config_.validation.every)) validate();
  if (is_main() && due(progress_.step, config_.sample.every)) sample();
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
  if (is_main() && due(progress_.step, config_.checkpoint.pth_every))
    try_to("rwkv-N.pth", [&] { export_pth(); });
  if (due(progress_.step, config_.checkpoint.every)) try_to("checkpoint", [&] { save(); });
}

ValidationPlan Trainer::validation_plan() const {
  return {.windows = config_.validation.windows,
          .ctx_len = config_.train.ctx_len,
          .loss_mask = data_.validation_loss_mask.get()};
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
  ValidationPlan plan = validation_plan();
  plan.micro_bsz = micro_bsz;
  plan.rank = group_->rank();
  plan.world_size = group_->world_size();
  plan.sum_over_ranks = [this](double own) { return group_->sum(own); };
  const auto show = is_main() ? show_validation_progress : [](int64_t, int64_t) {};
  m.val_loss = validation_loss(*model_, *data_.validation, plan, show);
  if (!is_main()) return;
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
  if (is_main() && config_.checkpoint.export_pth &&
      (trained || !std::filesystem::exists(pth_path())))
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

}  // namespace rwkv::trainer
