#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "data/sampler.h"
#include "model/model_config.h"
#include "trainer/config_distributed.h"
#include "trainer/config_names.h"
#include "trainer/config_schedule.h"

namespace rwkv::trainer {

// Every struct names its fields once, in visit(). The YAML reader, the checks of type and range,
// --set, the dump into checkpoints, --help and the table of the README are all made from that list.

enum class DataKind { kAuto, kBytes, kCharacters, kUtf16le, kBinidx, kNpy, kRaw };
inline constexpr std::array kDataKindNames = {Named{DataKind::kAuto, "auto"},
                                              Named{DataKind::kBytes, "bytes"},
                                              Named{DataKind::kCharacters, "characters"},
                                              Named{DataKind::kUtf16le, "utf16le"},
                                              Named{DataKind::kBinidx, "binidx"},
                                              Named{DataKind::kNpy, "npy"},
                                              Named{DataKind::kRaw, "raw"}};

using data::SamplerFactor;
using data::SamplerKind;
inline constexpr std::array kSamplerKindNames = {Named{SamplerKind::kRandom, "random"},
                                                 Named{SamplerKind::kCubic, "cubic"}};
inline constexpr std::array kSamplerFactorNames = {Named{SamplerFactor::kGolden, "golden"},
                                                   Named{SamplerFactor::kOne, "1"}};

/// The training file and the order of its windows.
///
/// A file is split in one of two ways. With train_tokens or train_bytes the first part trains, and
/// the part that follows it, validation.tokens or validation.bytes long, validates; the rest is not
/// touched (a test set). With validation.tail_tokens or validation.tail the end validates and all
/// before it trains.
struct DataConfig {
  DataKind kind = DataKind::kAuto;
  std::string path;
  std::string dtype;
  std::string vocab_file;
  std::string loss_mask;
  int64_t train_tokens = 0;
  int64_t train_bytes = 0;
  SamplerKind sampler = SamplerKind::kRandom;
  int64_t magic_prime = 0;
  SamplerFactor factor = SamplerFactor::kGolden;
  int64_t step_bias = 0;
  int64_t shift = 0;
  int64_t random_steps = 0;
  int64_t qa_mask = 0;
  std::string general_path;

  bool operator==(const DataConfig&) const = default;

  template <typename Self, typename Visitor>
  static void visit(Self& self, Visitor& v) {
    v.choice("kind", self.kind, kDataKindNames, "format; auto = by the file's name");
    v.path("path", self.path, "file to train on; for binidx without .bin and .idx (required)");
    v.word("dtype", self.dtype, {"", "u8", "i8", "u16", "i16", "u32", "i32", "i64"},
           "raw: type of the numbers, little endian");
    v.path("vocab_file", self.vocab_file,
           "characters: vocab.json to read, or to write when it is missing");
    v.path("loss_mask", self.loss_mask,
           "file with one byte (or .npy number) a token of path: 1 = learn it, 0 = only read it");
    v.count("train_tokens", self.train_tokens, 0, kMaxCount,
            "the first N tokens train; 0 = all but the tail");
    v.count("train_bytes", self.train_bytes, 0, kMaxCount,
            "text: the first N bytes train, cut at the next whole character; 0 = unused");
    v.choice("sampler", self.sampler, kSamplerKindNames,
             "windows at random, or each once by the cubic rule");
    v.integer("magic_prime", self.magic_prime, 0, int64_t{1} << 62,
              "cubic: windows in one pass; 0 = computed");
    v.choice("factor", self.factor, kSamplerFactorNames,
             "cubic: multiplier of n^3, the golden ratio or 1");
    v.count("step_bias", self.step_bias, 0, kMaxCount, "cubic: added to the number of the sample");
    v.integer("shift", self.shift, 0, 1048575, "cubic: added to every offset; below ctx_len");
    v.count("random_steps", self.random_steps, 0, kMaxCount,
            "cubic: the first N samples are random ones");
    v.integer("qa_mask", self.qa_mask, 0, 2,
              "my_qa_mask of RWKV-4neo: every other sample comes from general_path; 1 = the others "
              "learn answers only, 2 = whole windows");
    v.path("general_path", self.general_path, "qa_mask: the general text, of the kind of path");
  }
};

/// Which gradient L2Wrap adds: scaled with the loss, or left alone as in RWKV-4neo.
enum class L2WrapCompat { kNone, kV4neo };
inline constexpr std::array kL2WrapCompatNames = {Named{L2WrapCompat::kNone, "none"},
                                                  Named{L2WrapCompat::kV4neo, "v4neo"}};

/// In which numbers a run computes. Master weights and moments are float32 in all of them.
///   fp32  everything float32
///   tf32  float32 storage, matrix products rounded to TF32 (CUDA only)
///   bf16  module, activations and gradients bfloat16
///   fp16  the same in float16, with a dynamic loss scale
enum class Precision { kFp32, kTf32, kBf16, kFp16 };
inline constexpr std::array kPrecisionNames = {
    Named{Precision::kFp32, "fp32"}, Named{Precision::kTf32, "tf32"},
    Named{Precision::kBf16, "bf16"}, Named{Precision::kFp16, "fp16"}};

/// Length, batch and bookkeeping of a run.
struct TrainConfig {
  std::string out_dir = "out";
  int64_t seed = 42;
  int64_t ctx_len = 1024;
  int64_t micro_bsz = 12;
  int64_t grad_accum = 1;
  int64_t max_steps = 0;
  int64_t max_tokens = 0;
  int64_t epoch_steps = 1000;
  int64_t stage = -1;
  int64_t threads = 0;
  double l2wrap = 1e-4;
  L2WrapCompat l2wrap_compat = L2WrapCompat::kNone;
  int64_t skip_nonfinite = 0;
  int64_t log_every = 1;
  bool tensorboard = true;
  std::string device = "cpu";
  Precision precision = Precision::kFp32;
  double loss_scale = 65536;
  bool grad_cp = false;
  double dropout = 0.0;
  std::string init_from;
  bool init_partial = false;

  /// Samples per step, over all ranks.
  [[nodiscard]] int64_t real_bsz() const { return micro_bsz * grad_accum; }

  bool operator==(const TrainConfig&) const = default;

  template <typename Self, typename Visitor>
  static void visit(Self& self, Visitor& v) {
    v.path("out_dir", self.out_dir, "folder of checkpoints and logs");
    v.integer("seed", self.seed, 0, INT64_MAX, "seed of weights and random windows");
    v.integer("ctx_len", self.ctx_len, 1, 1048576, "tokens per window T");
    v.integer("micro_bsz", self.micro_bsz, 1, 65536, "windows per forward pass, at most");
    v.integer("grad_accum", self.grad_accum, 1, 65536,
              "a step has micro_bsz * grad_accum windows, whatever the number of ranks");
    v.count("max_steps", self.max_steps, 0, kMaxCount, "stop after N steps; 0 = no limit by steps");
    v.count("max_tokens", self.max_tokens, 0, kMaxCount,
            "stop after N tokens; 0 = no limit by tokens");
    v.count("epoch_steps", self.epoch_steps, 1, kMaxCount,
            "steps of a mini-epoch when no stage is set");
    v.integer(
        "stage", self.stage, -1, 4,
        "my_pile_stage of RWKV-4neo: mini-epochs of 40320 windows from 1 on, where 1 only writes "
        "rwkv-init.pth; -1 = none");
    v.integer("threads", self.threads, 0, 1024, "CPU threads; 0 = all cores");
    v.real("l2wrap", self.l2wrap, 0.0, 1.0, "strength of L2Wrap on the largest logit; 0 = off");
    v.choice("l2wrap_compat", self.l2wrap_compat, kL2WrapCompatNames,
             "v4neo: L2Wrap is not scaled with the loss");
    v.integer("skip_nonfinite", self.skip_nonfinite, 0, 1000000,
              "updates in a row that may be skipped when not finite; 0 = stop");
    v.count("log_every", self.log_every, 1, kMaxCount, "a line of metrics.jsonl each N steps");
    v.flag("tensorboard", self.tensorboard, "log for TensorBoard too, beside metrics.jsonl");
    v.word("device", self.device, {"cpu", "cuda"}, "where to compute");
    v.choice("precision", self.precision, kPrecisionNames,
             "numbers of weights and activations; masters stay fp32");
    v.real("loss_scale", self.loss_scale, 1.0, 16777216.0,
           "fp16: first loss scale; halves from the second overflow on, doubles after 1000 good "
           "steps");
    v.flag("grad_cp", self.grad_cp,
           "keep one input per block and compute blocks twice: less memory, same result");
    v.real("dropout", self.dropout, 0.0, 0.99, "of the embedding and of each residual sum");
    v.path("init_from", self.init_from,
           "weights to start from instead of random ones, in any format that rwkv info reads");
    v.flag("init_partial", self.init_partial,
           "init_from: take what fits, list what does not, and keep initial values there");
  }
};

/// Weight decay as L2 term or decoupled; auto = L2 without weight decay, AdamW with it (RWKV-4neo).
enum class AdamMode { kAuto, kL2, kAdamW };
inline constexpr std::array kAdamModeNames = {
    Named{AdamMode::kAuto, "auto"}, Named{AdamMode::kL2, "l2"}, Named{AdamMode::kAdamW, "adamw"}};

struct OptimizerConfig {
  std::array<double, 2> betas = {0.9, 0.99};
  double eps = 1e-8;
  double weight_decay = 0.0;
  double weight_decay_final = -1.0;
  AdamMode adam_w_mode = AdamMode::kAuto;
  bool layerwise_lr = true;
  double grad_clip = 1.0;
  std::vector<std::string> freeze;

  bool operator==(const OptimizerConfig&) const = default;

  template <typename Self, typename Visitor>
  static void visit(Self& self, Visitor& v) {
    v.betas("betas", self.betas, "Adam's beta1 and beta2 where the schedule names none");
    v.real("eps", self.eps, 1e-30, 1.0, "added to the root of the second moment");
    v.real("weight_decay", self.weight_decay, 0.0, 10.0, "of matrices; 0 = off");
    v.real("weight_decay_final", self.weight_decay_final, -1.0, 10.0,
           "decays to this value along the schedule; not above 0 = constant");
    v.choice("adam_w_mode", self.adam_w_mode, kAdamModeNames,
             "auto = l2 without weight decay, else adamw");
    v.flag("layerwise_lr", self.layerwise_lr,
           "time_decay learns at 2x, time_first at 3x the rate (5x both in stage 2)");
    v.real("grad_clip", self.grad_clip, 0.0, 1e6, "largest norm of the gradient; 0 = off");
    v.texts(
        "freeze", self.freeze,
        "names of parameters that keep their values, with * and ?, e.g. [emb.*, blocks.?.att.*]");
  }
};

/// Loss on held-out text; see DataConfig for the ways to split a file.
struct ValidationConfig {
  int64_t every = 0;
  std::string path;
  std::string loss_mask;
  int64_t tokens = 0;
  int64_t bytes = 0;
  int64_t tail_tokens = 0;
  double tail = 0.0;
  int64_t windows = 1024;
  int64_t micro_bsz = 0;

  /// Whether any text is held out.
  [[nodiscard]] bool enabled() const {
    return !path.empty() || tokens > 0 || bytes > 0 || tail_tokens > 0 || tail > 0.0;
  }

  bool operator==(const ValidationConfig&) const = default;

  template <typename Self, typename Visitor>
  static void visit(Self& self, Visitor& v) {
    v.count("every", self.every, 0, kMaxCount, "each N steps; 0 = only at the end");
    v.path("path", self.path, "a file of its own, of the kind of data.path");
    v.path("loss_mask", self.loss_mask, "data.loss_mask for validation.path");
    v.count("tokens", self.tokens, 0, kMaxCount, "the N tokens that follow the training part");
    v.count("bytes", self.bytes, 0, kMaxCount, "text: the N bytes that follow the training part");
    v.count("tail_tokens", self.tail_tokens, 0, kMaxCount, "the last N tokens of data.path");
    v.real("tail", self.tail, 0.0, 0.5, "the same as a fraction of data.path");
    v.count("windows", self.windows, 1, kMaxCount, "at most N windows, spread evenly");
    v.integer("micro_bsz", self.micro_bsz, 0, 65536, "windows per pass; 0 = train.micro_bsz");
  }
};

/// Texts written by the model while it trains.
struct SampleConfig {
  int64_t every = 0;
  std::string prompt = "\n";
  int64_t tokens = 200;
  double temperature = 1.0;
  double top_p = 0.9;

  bool operator==(const SampleConfig&) const = default;

  template <typename Self, typename Visitor>
  static void visit(Self& self, Visitor& v) {
    v.count("every", self.every, 0, kMaxCount, "each N steps; 0 = never");
    v.text("prompt", self.prompt, "text to go on from");
    v.integer("tokens", self.tokens, 1, 1000000, "length of the text");
    v.real("temperature", self.temperature, 0.0, 100.0, "0 = always the likeliest token");
    v.real("top_p", self.top_p, 0.0, 1.0, "probability mass of the candidates");
  }
};

struct CheckpointConfig {
  int64_t every = 0;
  int64_t keep_last = 3;
  bool export_pth = true;
  int64_t pth_every = 0;

  bool operator==(const CheckpointConfig&) const = default;

  template <typename Self, typename Visitor>
  static void visit(Self& self, Visitor& v) {
    v.count("every", self.every, 0, kMaxCount, "full state each N steps; 0 = only at the end");
    v.integer("keep_last", self.keep_last, 1, 1000000, "how many full states to keep");
    v.flag("export_pth", self.export_pth, "write rwkv-N.pth at the end");
    v.count("pth_every", self.pth_every, 0, kMaxCount, "rwkv-N.pth each N steps too; 0 = never");
  }
};

/// All settings of a training run: one YAML file.
struct RunConfig {
  model::ModelConfig model;
  DataConfig data;
  TrainConfig train;
  OptimizerConfig optimizer;
  ScheduleConfig schedule;
  ValidationConfig validation;
  SampleConfig sample;
  CheckpointConfig checkpoint;
  DistributedConfig distributed;

  /// Keys of section `model` that the file or --set named, e.g. "model.n_layer": with
  /// train.init_from they must agree with the weights, and the others come from them.
  std::vector<std::string> named_model_keys;

  /// Equal settings; how they were written does not count.
  friend bool operator==(const RunConfig& a, const RunConfig& b) {
    const auto settings = [](const RunConfig& c) {
      return std::tie(c.model, c.data, c.train, c.optimizer, c.schedule, c.validation, c.sample,
                      c.checkpoint, c.distributed);
    };
    return settings(a) == settings(b);
  }

  template <typename Self, typename Visitor>
  static void visit(Self& self, Visitor& v) {
    v.section("model", self.model);
    v.section("data", self.data);
    v.section("train", self.train);
    v.section("optimizer", self.optimizer);
    v.section("schedule", self.schedule);
    v.section("validation", self.validation);
    v.section("sample", self.sample);
    v.section("checkpoint", self.checkpoint);
    v.section("distributed", self.distributed);
  }
};

/// Reads and checks a YAML file; `overrides` are `section.key=value` texts that replace what it
/// says. Throws one UserError that lists every mistake, each on a line `FILE:LINE: KEY: what; how
/// to mend`; with more than one mistake a first line counts them.
RunConfig load_run_config(const std::filesystem::path& file,
                          const std::vector<std::string>& overrides = {});

/// The same for YAML text; `name` stands for the file in messages.
RunConfig parse_run_config(std::string_view text, const std::string& name,
                           const std::vector<std::string>& overrides = {});

/// The complete configuration as YAML that reads back to an equal struct.
std::string dump_yaml(const RunConfig& config);

/// All keys with default, range and help in aligned columns (for --help).
std::string describe_keys();

/// The same as a Markdown table (for the README).
std::string keys_as_markdown();

/// One key whose value differs, both values as YAML.
struct Difference {
  std::string key;
  std::string old_value;
  std::string new_value;
};

/// Keys in which `b` differs from `a`, in the order of the structs.
std::vector<Difference> differences(const RunConfig& a, const RunConfig& b);

}  // namespace rwkv::trainer
