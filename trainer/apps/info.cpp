#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cmath>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "data/base/atomic_file.h"
#include "data/base/error.h"
#include "model/formats/element_types.h"
#include "model/formats/layout.h"
#include "model/formats/tensor_file.h"
#include "trainer/apps/commands.h"
#include "trainer/checkpoint.h"
#include "trainer/exit_code.h"
#include "trainer/model_source.h"
#include "trainer/terminal_progress.h"
#include "trainer/weight_curves.h"

namespace rwkv::apps {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

struct Arguments {
  std::string path;
  std::string curves;
  bool json = false;
  bool force = false;
};

/// Mean of all elements; NaN for none, and for types without numbers.
double mean_of(const formats::TensorFile& file, const formats::TensorInfo& tensor) {
  if (!formats::is_number(tensor.dtype)) return std::nan("");
  double sum = 0;
  file.read_pieces(tensor, [&](std::span<const float> values) {
    for (const float value : values) sum += static_cast<double>(value);
  });
  return sum / static_cast<double>(tensor.numel());
}

struct Totals {
  int64_t elements = 0;
  int64_t bytes = 0;
};

Totals totals_of(const formats::TensorFile& file) {
  Totals totals;
  for (const formats::TensorInfo& tensor : file.tensors()) {
    totals.elements += tensor.numel();
    totals.bytes += tensor.size_bytes();
  }
  return totals;
}

/// The means in the order of the tensors. Reads the whole file, so that takes a while.
std::vector<double> means_of(const formats::TensorFile& file) {
  const int64_t all = totals_of(file).bytes;
  int64_t done = 0;
  std::vector<double> means;
  for (const formats::TensorInfo& tensor : file.tensors()) {
    means.push_back(mean_of(file, tensor));
    done += tensor.size_bytes();
    trainer::show_bytes("reading", done, all);
  }
  return means;
}

/// What state.json beside the weights says, when they belong to a checkpoint.
std::optional<trainer::CheckpointState> state_beside(const fs::path& weights) {
  const fs::path folder = weights.parent_path();
  if (!trainer::is_checkpoint(folder)) return std::nullopt;
  return trainer::read_checkpoint_state(folder);
}

void print_text(const formats::TensorFile& file, const std::vector<double>& means) {
  fmt::print("file: {} ({})\n", file.name(), file.kind());
  for (const std::string& warning : file.warnings()) fmt::print("note: {}\n", printable(warning));
  const auto layout = formats::recognise_rwkv(formats::shapes_of(file.tensors()));
  fmt::print("model: {}\n", layout ? describe(*layout) : "this is no RWKV");
  if (const auto state = state_beside(file.path())) {
    fmt::print("checkpoint: step {}, {} tokens, smoothed loss {:.4f}, written by rwkv {}\n",
               state->progress.step, state->progress.tokens, state->progress.smoothed_loss,
               printable(state->program_version));
  }
  for (size_t i = 0; i < means.size(); ++i) {
    const formats::TensorInfo& tensor = file.tensors()[i];
    fmt::print("{:<44} {:>5}  mean {:>12.5g}  [{}]\n", printable(tensor.name, 80),
               formats::dtype_name(tensor.dtype), means[i], fmt::join(tensor.shape, ", "));
  }
  const Totals totals = totals_of(file);
  fmt::print("{} tensors, {} elements, {:.1f} MB\n", file.tensors().size(), totals.elements,
             static_cast<double>(totals.bytes) / 1e6);
}

ordered_json layout_json(const formats::Layout& layout) {
  return {
      {"version", layout.version}, {"n_layer", layout.n_layer}, {"n_embd", layout.n_embd},
      {"dim_att", layout.dim_att}, {"dim_ffn", layout.dim_ffn}, {"vocab_size", layout.vocab_size},
      {"pre_ffn", layout.pre_ffn}, {"head_qk", layout.head_qk}, {"tiny_att", layout.tiny_att},
      {"att_qkv", layout.att_qkv}, {"pos_emb", layout.pos_emb}};
}

void print_json(const formats::TensorFile& file, const std::vector<double>& means) {
  ordered_json tensors = ordered_json::array();
  for (size_t i = 0; i < means.size(); ++i) {
    const formats::TensorInfo& tensor = file.tensors()[i];
    ordered_json entry{{"name", tensor.name},
                       {"shape", tensor.shape},
                       {"dtype", formats::dtype_name(tensor.dtype)}};
    entry["mean"] = std::isfinite(means[i]) ? ordered_json(means[i]) : ordered_json(nullptr);
    tensors.push_back(std::move(entry));
  }
  const auto layout = formats::recognise_rwkv(formats::shapes_of(file.tensors()));
  const Totals totals = totals_of(file);
  ordered_json out{{"file", file.path().string()}, {"kind", file.kind()}};
  out["model"] = layout ? layout_json(*layout) : ordered_json(nullptr);
  if (const auto state = state_beside(file.path())) {
    out["checkpoint"] = {{"step", state->progress.step},
                         {"tokens", state->progress.tokens},
                         {"smoothed_loss", state->progress.smoothed_loss},
                         {"program_version", state->program_version}};
  }
  out["metadata"] = file.metadata();
  out["warnings"] = file.warnings();
  out["elements"] = totals.elements;
  out["size_bytes"] = totals.bytes;
  out["tensors"] = std::move(tensors);
  using Handler = ordered_json::error_handler_t;
  fmt::print("{}\n", out.dump(2, ' ', false, Handler::replace));
}

int info(const Arguments& arguments) {
  const formats::TensorFile file =
      formats::open_tensor_file(trainer::find_weights(arguments.path, "FILE"));
  if (!arguments.curves.empty()) {
    if (fs::exists(arguments.curves) && !arguments.force) {
      user_error("--curves: {} exists; choose another name or overwrite it with --force",
                 printable(arguments.curves));
    }
    write_file_atomically(arguments.curves, trainer::weight_curves_svg(file));
    fmt::print(stderr, "wrote {}\n", printable(arguments.curves));
    return trainer::kFinished;
  }
  const std::vector<double> means = means_of(file);
  if (arguments.json) {
    print_json(file, means);
  } else {
    print_text(file, means);
  }
  file.check_unchanged();
  return trainer::kFinished;
}

}  // namespace

void add_info(CLI::App& program, int& exit_code) {
  auto* command = program.add_subcommand("info", "Show what a checkpoint or weight file holds");
  auto arguments = std::make_shared<Arguments>();
  command
      ->add_option("file", arguments->path,
                   "Run folder, checkpoint, weight file or Hugging Face folder")
      ->required()
      ->type_name("FILE");
  command->add_flag("--json", arguments->json, "Print JSON");
  command
      ->add_option("--curves", arguments->curves,
                   "Draw decay half-lives and mixing vectors by layer into this SVG file")
      ->type_name("OUT.svg");
  command->add_flag("--force", arguments->force, "Overwrite the SVG file");
  command->callback([arguments, &exit_code] { exit_code = info(*arguments); });
}

}  // namespace rwkv::apps
