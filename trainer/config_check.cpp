#include "trainer/config_check.h"

#include <fmt/format.h>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "trainer/config_fields.h"

namespace rwkv::trainer {
namespace {

/// The checks, by section. require() is where a rule that does not hold becomes a problem.
class Check {
 public:
  Check(const RunConfig& config, ReadContext& context)
      : config_(config), fields_(list_fields(config)), context_(context) {}

  void data();
  void train();
  void schedule();
  void validation();

 private:
  void segments();
  void originals();
  void unused(bool used, std::string_view kinds, const std::vector<std::string>& keys);
  void require(bool right, const std::vector<std::string>& keys, const std::string& message);

  const RunConfig& config_;
  const std::vector<FieldText> fields_;
  ReadContext& context_;
};

void Check::require(bool right, const std::vector<std::string>& keys, const std::string& message) {
  if (right) return;
  Place place;
  for (const std::string& key : keys) {
    if (context_.failed.contains(key) || context_.failed.contains(key.substr(0, key.find('.')))) {
      return;
    }
    const auto found = context_.places.find(key);
    if (found != context_.places.end() && place.line == 0) place = found->second;
  }
  context_.problems.add(place, fmt::format("{}: {}", keys.front(), message));
}

void Check::data() {
  const DataConfig& data = config_.data;
  require(!data.path.empty(), {"data.path"}, "missing; name the file to train on");
  require(data.kind != DataKind::kRaw || !data.dtype.empty(), {"data.dtype", "data.kind"},
          "missing; kind raw needs the type of the numbers, e.g. u16");
  require(data.kind == DataKind::kRaw || data.dtype.empty(), {"data.dtype", "data.kind"},
          "only kind raw reads it; remove it");
  const bool has_characters = data.kind == DataKind::kAuto || data.kind == DataKind::kCharacters ||
                              data.kind == DataKind::kUtf16le;
  require(has_characters || data.vocab_file.empty(), {"data.vocab_file", "data.kind"},
          "only characters have a vocabulary file; remove it");
  const bool is_text = has_characters || data.kind == DataKind::kBytes;
  require(is_text || data.train_bytes == 0, {"data.train_bytes", "data.kind"},
          "only text is split by bytes; use data.train_tokens");
  require(data.train_tokens == 0 || data.train_bytes == 0,
          {"data.train_bytes", "data.train_tokens"}, "split by bytes or by tokens, not both");
  require(data.shift < config_.train.ctx_len, {"data.shift", "train.ctx_len"},
          fmt::format("{} must be below train.ctx_len = {}", data.shift, config_.train.ctx_len));
  const bool cubic = data.sampler == SamplerKind::kCubic;
  const std::string only_cubic = "only the cubic sampler uses it; set data.sampler: cubic";
  require(cubic || data.magic_prime == 0, {"data.magic_prime", "data.sampler"}, only_cubic);
  require(cubic || data.factor == SamplerFactor::kGolden, {"data.factor", "data.sampler"},
          only_cubic);
  require(cubic || data.shift == 0, {"data.shift", "data.sampler"}, only_cubic);
  require(cubic || data.step_bias == 0, {"data.step_bias", "data.sampler"}, only_cubic);
  require(cubic || data.random_steps == 0, {"data.random_steps", "data.sampler"}, only_cubic);
  require(cubic || data.qa_mask == 0, {"data.qa_mask", "data.sampler"}, only_cubic);
  require(data.qa_mask == 0 || !data.general_path.empty(), {"data.general_path", "data.qa_mask"},
          "missing; qa_mask mixes the questions with this text");
  require(data.qa_mask > 0 || data.general_path.empty(), {"data.general_path", "data.qa_mask"},
          "only qa_mask 1 and 2 read it; remove it");
  require(data.qa_mask == 0 || data.loss_mask.empty(), {"data.loss_mask", "data.qa_mask"},
          "qa_mask makes a mask of its own; use one of the two");
}

void Check::train() {
  const TrainConfig& train = config_.train;
  require(!train.out_dir.empty(), {"train.out_dir"}, "empty; name a folder");
  require(train.max_steps > 0 || train.max_tokens > 0, {"train.max_steps", "train.max_tokens"},
          "set train.max_steps or train.max_tokens, else the run never ends");
  require(train.stage < 1 || data::kSamplesPerEpoch % train.real_bsz() == 0,
          {"train.micro_bsz", "train.grad_accum", "train.stage"},
          fmt::format("micro_bsz * grad_accum = {} must divide {} in a stage; 32, 64 or 120 do",
                      train.real_bsz(), data::kSamplesPerEpoch));
  require(!train.init_partial || !train.init_from.empty(),
          {"train.init_partial", "train.init_from"},
          "there are no weights to start from; set train.init_from, or remove it");
  const bool cubic = config_.data.sampler == SamplerKind::kCubic;
  const bool cubic_stage = train.stage >= 1 && train.stage <= 3;
  require(!cubic_stage || cubic, {"train.stage", "data.sampler"},
          fmt::format("stage {} visits the windows by rule; set data.sampler: cubic", train.stage));
  require(train.stage != 4 || !cubic, {"train.stage", "data.sampler"},
          "stage 4 draws random windows; set data.sampler: random");
  require(train.precision != Precision::kTf32 || train.device == "cuda",
          {"train.precision", "train.device"},
          "tf32 is a mode of CUDA devices; use fp32 or bf16 on the CPU");
  require(train.precision == Precision::kFp16 || train.loss_scale == TrainConfig{}.loss_scale,
          {"train.loss_scale", "train.precision"}, "only precision fp16 uses it; remove it");
  require(!train.init_from.empty() || config_.model.head_qk > 0 ||
              config_.model.head_qk_reduce == model::HeadQkReduce::kSum,
          {"model.head_qk_reduce", "model.head_qk"}, "there is no Head-QK; set model.head_qk");
  const OptimizerConfig& optimizer = config_.optimizer;
  require(optimizer.weight_decay_final <= 0.0 || optimizer.weight_decay > 0.0,
          {"optimizer.weight_decay_final", "optimizer.weight_decay"},
          "there is no weight decay to change; set optimizer.weight_decay above 0");
}

void Check::unused(bool used, std::string_view kinds, const std::vector<std::string>& keys) {
  if (used) return;
  for (size_t i = 0; i < fields_.size(); ++i) {
    const auto& [key, value, range, help] = fields_[i];
    if (std::find(keys.begin(), keys.end(), key) == keys.end()) continue;
    require(value == default_fields()[i].value, {key, "schedule.kind"},
            fmt::format("schedule.kind {} does not use it; only {} does",
                        name_of(kScheduleKindNames, config_.schedule.kind), kinds));
  }
}

void Check::segments() {
  if (context_.failed.contains("schedule.segments")) return;
  const std::vector<Segment>& list = config_.schedule.segments;
  require(!list.empty(), {"schedule.segments", "schedule.kind"},
          "missing; give at least one segment, e.g. [{until: 1e9, lr: {constant: 3e-4}}]");
  int64_t before = 0;
  for (size_t i = 0; i < list.size(); ++i) {
    const std::string name = fmt::format("schedule.segments[{}]", i);
    require(list[i].until > before, {name + ".until", name, name + ".lr"},
            fmt::format("{} is not beyond {}, where the segment begins", list[i].until, before));
    before = list[i].until;
    if (!list[i].real_bsz) continue;
    require(*list[i].real_bsz % config_.train.micro_bsz == 0,
            {name + ".real_bsz", "train.micro_bsz"},
            fmt::format("{} is no multiple of train.micro_bsz = {}", *list[i].real_bsz,
                        config_.train.micro_bsz));
  }
}

void Check::originals() {
  const ScheduleConfig& schedule = config_.schedule;
  const bool by_tokens =
      schedule.kind == ScheduleKind::kRwkv4Tokens || schedule.kind == ScheduleKind::kRwkv2Tokens;
  require(schedule.lr_init > 0.0 || schedule.lr_final > 0.0, {"schedule.lr_init", "schedule.kind"},
          "missing; this kind needs lr_init and lr_final");
  if (by_tokens) {
    require(schedule.final_tokens > 0, {"schedule.final_tokens", "schedule.kind"},
            "missing; this kind decays up to that many tokens");
    require(schedule.final_tokens >= schedule.warmup_tokens,
            {"schedule.warmup_tokens", "schedule.final_tokens"}, "must not exceed final_tokens");
  }
  require(schedule.kind != ScheduleKind::kRwkv7 || schedule.my_exit_tokens > 0,
          {"schedule.my_exit_tokens", "schedule.kind"},
          "RWKV-7's trainer has only the cosine by tokens; set it above 0");
  const bool exponential = schedule.kind == ScheduleKind::kRwkv4Tokens;
  require(!exponential || schedule.lr_final > 0.0, {"schedule.lr_final", "schedule.kind"},
          "an exponential decay never reaches 0; set it above 0");
  const bool divides = by_tokens || schedule.my_exit_tokens != 0;
  require(!divides || schedule.lr_init > 0.0, {"schedule.lr_init", "schedule.kind"},
          "this schedule is relative to lr_init; set it above 0");
}

void Check::schedule() {
  const ScheduleKind kind = config_.schedule.kind;
  const bool by_segments = kind == ScheduleKind::kSegments;
  const bool by_epochs = kind == ScheduleKind::kRwkv4neo || kind == ScheduleKind::kRwkv7;
  const bool by_tokens = !by_segments && !by_epochs;
  unused(by_segments, "segments",
         {"schedule.unit", "schedule.warmup.steps", "schedule.warmup.floor",
          "schedule.warmup.after_resume", "schedule.segments", "schedule.after",
          "schedule.on_change"});
  unused(!by_segments, "an original's kind", {"schedule.lr_init", "schedule.lr_final"});
  unused(by_epochs, "rwkv4neo or rwkv7",
         {"schedule.warmup_steps", "schedule.epoch_steps", "schedule.epoch_count",
          "schedule.my_exit_tokens"});
  unused(kind == ScheduleKind::kRwkv4neo, "rwkv4neo", {"schedule.my_pile_edecay"});
  unused(by_tokens, "rwkv4_tokens or rwkv2_tokens",
         {"schedule.warmup_tokens", "schedule.final_tokens"});
  if (by_segments) {
    segments();
  } else {
    originals();
  }
}

void Check::validation() {
  const ValidationConfig& validation = config_.validation;
  const DataConfig& data = config_.data;
  const std::vector<std::pair<std::string, bool>> ways = {
      {"validation.path", !validation.path.empty()},
      {"validation.tokens", validation.tokens > 0},
      {"validation.bytes", validation.bytes > 0},
      {"validation.tail_tokens", validation.tail_tokens > 0},
      {"validation.tail", validation.tail > 0.0}};
  std::string first;
  for (const auto& [key, used] : ways) {
    if (!used) continue;
    require(first.empty(), {key, first.empty() ? key : first},
            fmt::format("the text for validation is named twice, see {} too; keep one", first));
    if (first.empty()) first = key;
  }
  require(validation.every == 0 || validation.enabled(), {"validation.every", "validation.path"},
          "there is no text to validate on; set validation.path or validation.tail");
  require(validation.loss_mask.empty() || !validation.path.empty(),
          {"validation.loss_mask", "validation.path"},
          "belongs to validation.path; for a part of data.path data.loss_mask holds it already");
  require(validation.tokens == 0 || data.train_tokens > 0,
          {"validation.tokens", "data.train_tokens"},
          "follows data.train_tokens; set that as well");
  require(validation.bytes == 0 || data.train_bytes > 0, {"validation.bytes", "data.train_bytes"},
          "follows data.train_bytes; set that as well");
  const bool has_tail = validation.tail_tokens > 0 || validation.tail > 0.0;
  const bool has_front = data.train_tokens > 0 || data.train_bytes > 0;
  require(!has_tail || !has_front,
          {validation.tail > 0.0 ? "validation.tail" : "validation.tail_tokens",
           data.train_bytes > 0 ? "data.train_bytes" : "data.train_tokens"},
          "the training part is already set in data; use validation.tokens or validation.bytes");
}

}  // namespace

void check_across_fields(const RunConfig& config, ReadContext& context) {
  Check check(config, context);
  check.data();
  check.train();
  check.schedule();
  check.validation();
}

}  // namespace rwkv::trainer
