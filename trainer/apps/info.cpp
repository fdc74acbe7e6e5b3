#include <fmt/format.h>
#include <fmt/ranges.h>

#include <filesystem>
#include <memory>
#include <string>

#include "data/base/error.h"
#include "model/formats/tensor_file.h"
#include "model/weights.h"
#include "trainer/apps/commands.h"
#include "trainer/checkpoint.h"
#include "trainer/exit_code.h"
#include "trainer/model_source.h"

namespace rwkv::apps {
namespace {

namespace fs = std::filesystem;

void print_tensors(const formats::TensorFile& file) {
  int64_t elements = 0;
  int64_t bytes = 0;
  for (const formats::TensorInfo& tensor : file.tensors()) {
    fmt::print("{:<44} {:>5}  [{}]\n", printable(tensor.name, 80),
               formats::dtype_name(tensor.dtype), fmt::join(tensor.shape, ", "));
    elements += tensor.numel();
    bytes += tensor.size_bytes();
  }
  fmt::print("{} tensors, {} elements, {:.1f} MB\n", file.tensors().size(), elements,
             static_cast<double>(bytes) / 1e6);
}

void print_architecture(const formats::TensorFile& file) {
  model::Shapes shapes;
  for (const formats::TensorInfo& tensor : file.tensors()) shapes[tensor.name] = tensor.shape;
  try {
    const model::ModelConfig c = model::config_from_shapes(shapes, "");
    fmt::print("model: {} n_layer {} n_embd {} dim_att {} dim_ffn {} vocab_size {}{}{}\n", c.arch,
               c.n_layer, c.n_embd, c.att_size(), c.ffn_size(), c.vocab_size,
               c.pre_ffn ? " pre_ffn" : "",
               c.head_qk > 0 ? fmt::format(" head_qk {}", c.head_qk) : "");
  } catch (const UserError&) {
    fmt::print("model: these are no weights of an RWKV model that this program runs\n");
  }
}

/// What state.json beside the weights says, when they belong to a checkpoint.
void print_progress(const fs::path& checkpoint) {
  if (!fs::exists(checkpoint / "state.json")) return;
  const trainer::CheckpointState state = trainer::read_checkpoint_state(checkpoint);
  fmt::print("checkpoint: step {}, {} tokens, smoothed loss {:.4f}, written by rwkv {}\n",
             state.progress.step, state.progress.tokens, state.progress.smoothed_loss,
             printable(state.program_version));
}

int info(const std::string& path) {
  const fs::path weights = trainer::find_weights(path);
  const formats::TensorFile file = formats::open_tensor_file(weights);
  fmt::print("file: {} ({})\n", printable(weights.string()), file.kind());
  for (const std::string& warning : file.warnings()) fmt::print("note: {}\n", printable(warning));
  print_architecture(file);
  print_progress(weights.parent_path());
  print_tensors(file);
  return trainer::kFinished;
}

}  // namespace

void add_info(CLI::App& program, int& exit_code) {
  auto* command = program.add_subcommand("info", "Show what a checkpoint or weight file holds");
  auto path = std::make_shared<std::string>();
  command->add_option("file", *path, "Run folder, checkpoint, .pth or .safetensors")
      ->required()
      ->type_name("FILE");
  command->callback([path, &exit_code] { exit_code = info(*path); });
}

}  // namespace rwkv::apps
