#include "model/formats/convert.h"

#include <fmt/format.h>

#include <cmath>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "data/base/error.h"
#include "trainer/apps/commands.h"
#include "trainer/checkpoint.h"
#include "trainer/config.h"
#include "trainer/exit_code.h"
#include "trainer/model_source.h"
#include "trainer/terminal_progress.h"

namespace rwkv::apps {
namespace {

namespace fs = std::filesystem;

struct Arguments {
  std::string in;
  std::string out;
  std::string to;
  std::string dtype;
  double shard_gb = 5;
  int64_t ctx_len = 0;
  std::vector<std::string> tokenizer;
  bool force = false;
};

const std::vector<std::pair<std::string, formats::Target>> kTargets = {
    {"pth", formats::Target::kPth},
    {"safetensors", formats::Target::kSafetensors},
    {"hf", formats::Target::kHuggingFace},
    {"rwkv.cpp", formats::Target::kRwkvCpp}};

std::vector<std::string> target_names() {
  std::vector<std::string> names;
  for (const auto& [name, target] : kTargets) names.push_back(name);
  return names;
}

/// The length that a checkpoint was trained with; 1024 where nobody knows.
int64_t context_length(const fs::path& weights) {
  constexpr int64_t kUsual = 1024;
  const fs::path folder = weights.parent_path();
  if (!trainer::is_checkpoint(folder)) return kUsual;
  const trainer::CheckpointState state = trainer::read_checkpoint_state(folder);
  return trainer::parse_run_config(state.config_yaml, "config.yaml of the checkpoint")
      .train.ctx_len;
}

formats::ConvertOptions options_of(const Arguments& arguments, const fs::path& weights) {
  formats::ConvertOptions options;
  for (const auto& [name, target] : kTargets) {
    if (name == arguments.to) options.target = target;
  }
  if (!arguments.dtype.empty()) {
    options.dtype = formats::parse_weight_dtype(arguments.dtype, "--dtype");
  }
  if (!(arguments.shard_gb > 0 && arguments.shard_gb <= 1e6)) {
    user_error("--shard-gb: {} is no size; use a number above 0, e.g. 5", arguments.shard_gb);
  }
  options.shard_bytes = std::llround(arguments.shard_gb * 1e9);
  if (arguments.ctx_len < 0) user_error("--ctx-len: {} is negative", arguments.ctx_len);
  options.hugging_face.ctx_len =
      arguments.ctx_len > 0 ? arguments.ctx_len : context_length(weights);
  options.tokenizer.assign(arguments.tokenizer.begin(), arguments.tokenizer.end());
  options.force = arguments.force;
  options.progress = [](int64_t done, int64_t all) { trainer::show_bytes("writing", done, all); };
  return options;
}

int convert(const Arguments& arguments) {
  const fs::path weights = trainer::find_weights(arguments.in, "IN");
  const formats::TensorFile in = formats::open_tensor_file(weights);
  for (const std::string& warning : in.warnings()) {
    fmt::print(stderr, "note: {}\n", printable(warning));
  }
  const auto report = formats::convert(in, arguments.out, options_of(arguments, weights));
  trainer::show_bytes("writing", report.size_bytes, report.size_bytes);
  for (const std::string& note : report.notes) fmt::print(stderr, "note: {}\n", note);
  if (trainer::stored_head_qk_reduce(weights) == model::HeadQkReduce::kMax) {
    fmt::print(
        stderr,
        "note: Head-QK was trained with model.head_qk_reduce: max, which no weight file says; "
        "a program that adds all scores (sum) computes other logits from this one\n");
  }
  fmt::print("wrote {}: {} tensors, {:.1f} MB\n", printable(arguments.out), report.tensors,
             static_cast<double>(report.size_bytes) / 1e6);
  return trainer::kFinished;
}

}  // namespace

void add_convert(CLI::App& program, int& exit_code) {
  auto* command =
      program.add_subcommand("convert", "Write weights in another format, for other programs");
  auto arguments = std::make_shared<Arguments>();
  command
      ->add_option("in", arguments->in,
                   "Run folder, checkpoint, weight file or Hugging Face folder")
      ->required()
      ->type_name("IN");
  command->add_option("out", arguments->out, "File to write; a folder for hf")
      ->required()
      ->type_name("OUT");
  command->add_option("--to", arguments->to, "What to write: pth, safetensors, hf or rwkv.cpp")
      ->required()
      ->check(CLI::IsMember(target_names()));
  command
      ->add_option("--dtype", arguments->dtype,
                   "fp32, fp16 or bf16 (rwkv.cpp: not bf16); without it types stay as they are")
      ->check(CLI::IsMember({"fp32", "fp16", "bf16"}));
  command->add_option("--shard-gb", arguments->shard_gb, "hf: at most this many GB in one file")
      ->capture_default_str();
  command->add_option("--ctx-len", arguments->ctx_len,
                      "hf: context_length to write; without it the checkpoint's, or 1024");
  command->add_option(
      "--tokenizer", arguments->tokenizer,
      "hf: tokenizer.json, rwkv_vocab*.txt or vocab.json to put beside the weights");
  command->add_flag("--force", arguments->force, "Overwrite what OUT names");
  command->callback([arguments, &exit_code] { exit_code = convert(*arguments); });
}

}  // namespace rwkv::apps
