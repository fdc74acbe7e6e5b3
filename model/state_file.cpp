#include "model/state_file.h"

#include <fmt/format.h>
#include <torch/torch.h>

#include <array>
#include <charconv>
#include <map>
#include <span>
#include <utility>
#include <vector>

#include "data/base/crc32c.h"
#include "data/base/error.h"
#include "model/formats/tensor_file.h"
#include "model/formats/tensor_names.h"
#include "model/weights.h"

namespace rwkv::model {
namespace {

constexpr const char* kVersion = "1";

/// Rows of a block by their names in the file. Others keep their own name.
constexpr std::array<std::pair<std::string_view, std::string_view>, 6> kRows{{
    {"att.xx", "att_x"},
    {"att.aa", "aa"},
    {"att.bb", "bb"},
    {"att.pp", "pp"},
    {"ffn.xx", "ffn_x"},
    {"ffnPre.xx", "ffnPre_x"},
}};

/// "state.3.att_x" for "blocks.3.att.xx".
std::string file_name(const std::string& row) {
  const int64_t block = formats::block_of(row);
  if (block < 0) return "state." + row;
  std::string rest = row.substr(fmt::format("blocks.{}.", block).size());
  for (const auto& [ours, in_file] : kRows) {
    if (rest == ours) rest = in_file;
  }
  return fmt::format("state.{}.{}", block, rest);
}

/// What `model` remembers after one token: names, shapes and types of its rows.
State example_state(LanguageModel& model) {
  const torch::NoGradGuard no_grad;
  State state;
  const at::Device device = model.parameters().front().device();
  model.forward(at::zeros({1, 1}, at::TensorOptions(at::kLong).device(device)), &state,
                Positions::kLast);
  return state;
}

/// Rows that grow with the text have another length in dimension 0 (batch left out).
bool same_shape(at::IntArrayRef row, at::IntArrayRef example, bool grows) {
  return grows ? row.size() == example.size() && row.slice(1) == example.slice(1) && row[0] > 0
               : row == example;
}

std::map<std::string, std::string> metadata_of(const Context& context, const LanguageModel& model) {
  const ModelConfig& config = model.config();
  return {{"rwkv_state", kVersion},
          {"arch", config.arch},
          {"n_layer", std::to_string(config.n_layer)},
          {"n_embd", std::to_string(config.n_embd)},
          {"vocab_size", std::to_string(config.vocab_size)},
          {"weights_crc32c", fmt::format("{:08x}", weights_fingerprint(model))},
          {"draws", std::to_string(context.draws)}};
}

std::string entry(const formats::TensorFile& file, const std::string& key) {
  const auto found = file.metadata().find(key);
  return found == file.metadata().end() ? "" : found->second;
}

void check_sizes(const formats::TensorFile& file, const ModelConfig& config) {
  const std::string version = entry(file, "rwkv_state");
  if (version.empty()) {
    user_error("{} is no state file; make one with 'rwkv generate --save-state'", file.name());
  }
  if (version != kVersion) {
    user_error("{} is a state file of version {}, this program reads version {}", file.name(),
               printable(version, 20), kVersion);
  }
  const std::array<std::pair<const char*, std::string>, 4> expected{{
      {"arch", config.arch},
      {"n_layer", std::to_string(config.n_layer)},
      {"n_embd", std::to_string(config.n_embd)},
      {"vocab_size", std::to_string(config.vocab_size)},
  }};
  for (const auto& [key, value] : expected) {
    const std::string stored = entry(file, key);
    if (stored == value) continue;
    user_error(
        "{}: the state is of a model with {} {}, this model has {}; use the model that wrote it",
        file.name(), key, printable(stored, 20), value);
  }
}

at::Tensor take(const Tensors& tensors, const std::string& name, const std::string& file) {
  const auto found = tensors.find(name);
  if (found == tensors.end()) user_error("{}: {} is missing; the file is damaged", file, name);
  return found->second;
}

std::vector<int64_t> integers(const at::Tensor& tensor, const std::string& name,
                              const std::string& file) {
  if (tensor.dim() != 1 || tensor.scalar_type() != at::kLong) {
    user_error("{}: {} is no list of i64; the file is damaged", file, name);
  }
  const auto* values = tensor.const_data_ptr<int64_t>();
  return {values, values + tensor.numel()};
}

State read_state(const Tensors& tensors, LanguageModel& model, const std::string& file) {
  State state;
  for (const auto& [name, example] : example_state(model).rows) {
    const at::Tensor row = take(tensors, file_name(name), file);
    const at::Tensor wanted = example.select(0, 0);
    const bool grows = name.starts_with("head_qk.");
    if (!same_shape(row.sizes(), wanted.sizes(), grows)) {
      user_error("{}: {} has {} numbers, this model {}; use the model that wrote it", file,
                 file_name(name), row.numel(), wanted.numel());
    }
    state.set(name, row.unsqueeze(0).to(example.options()));
  }
  return state;
}

Occurrence read_occurrence(const Tensors& tensors, int64_t vocab_size, const std::string& file) {
  Occurrence occurrence;
  if (!tensors.contains("penalty.ids")) return occurrence;
  const auto ids = integers(take(tensors, "penalty.ids", file), "penalty.ids", file);
  check_ids(ids, vocab_size, (file + ": penalty.ids").c_str());
  const at::Tensor counts = take(tensors, "penalty.counts", file);
  if (counts.dim() != 1 || counts.scalar_type() != at::kDouble ||
      counts.numel() != std::ssize(ids)) {
    user_error("{}: penalty.counts is not one f64 for each of {} ids; the file is damaged", file,
               ids.size());
  }
  for (size_t i = 0; i < ids.size(); ++i) {
    occurrence[ids[i]] = counts.const_data_ptr<double>()[i];
  }
  return occurrence;
}

uint64_t read_draws(const formats::TensorFile& file) {
  const std::string text = entry(file, "draws");
  uint64_t draws = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), draws);
  if (error != std::errc() || end != text.data() + text.size()) {
    user_error("{}: draws is '{}', no number; the file is damaged", file.name(),
               printable(text, 40));
  }
  return draws;
}

at::Tensor read_logits(const Tensors& tensors, int64_t vocab_size, const std::string& file) {
  at::Tensor logits = take(tensors, "logits", file);
  const bool fits = logits.dim() == 1 && logits.numel() == vocab_size &&
                    (logits.scalar_type() == at::kFloat || logits.scalar_type() == at::kDouble);
  if (!fits) {
    user_error("{}: logits are not {} numbers in f32; the file is damaged", file, vocab_size);
  }
  return logits;
}

}  // namespace

uint32_t weights_fingerprint(const LanguageModel& model) {
  constexpr int64_t kMostValues = 16384;  // of each parameter: training changes all of them
  uint32_t crc = 0;
  const auto add = [&crc](const void* data, size_t bytes) {
    crc = crc32c(std::span(static_cast<const std::byte*>(data), bytes), crc);
  };
  for (const auto& parameter : model.named_parameters()) {
    const at::Tensor flat = parameter.value().detach().reshape({-1});
    const at::Tensor first = flat.slice(0, 0, kMostValues).to(at::kCPU, at::kFloat).contiguous();
    add(parameter.key().data(), parameter.key().size());
    add(parameter.value().sizes().data(), parameter.value().sizes().size() * sizeof(int64_t));
    add(first.const_data_ptr<float>(), first.nbytes());
  }
  return crc;
}

void check_state_target(const std::filesystem::path& file) {
  namespace fs = std::filesystem;
  const std::string name = printable(file.string());
  std::error_code ignored;
  if (!fs::exists(file, ignored)) {
    const fs::path folder = file.has_parent_path() ? file.parent_path() : fs::path(".");
    if (!fs::is_directory(folder, ignored)) {
      user_error("cannot write {}: there is no folder {}; make it first", name,
                 printable(folder.string()));
    }
    return;
  }
  bool is_state = false;
  try {
    is_state = !entry(formats::open_tensor_file(file), "rwkv_state").empty();
  } catch (const UserError&) {
    is_state = false;
  }
  if (!is_state) user_error("{} exists and is no state file; choose another name", name);
}

void save_context(const Context& context, const LanguageModel& model,
                  const std::filesystem::path& file) {
  TORCH_CHECK(context.logits.defined(), "save_context: the context has seen no token");
  check_state_target(file);
  NamedTensors tensors;
  for (const auto& [name, row] : context.state.rows) {
    TORCH_CHECK(row.size(0) == 1, "save_context: ", name, " holds ", row.size(0), " sequences");
    tensors.emplace_back(file_name(name), row.select(0, 0).cpu().contiguous());
  }
  tensors.emplace_back("logits", context.logits.contiguous());
  tensors.emplace_back("tokens", torch::tensor(context.tokens, at::kLong));
  if (!context.occurrence.empty()) {
    std::vector<int64_t> ids;
    std::vector<double> counts;
    for (const auto& [id, count] : context.occurrence) {
      ids.push_back(id);
      counts.push_back(count);
    }
    tensors.emplace_back("penalty.ids", torch::tensor(ids, at::kLong));
    tensors.emplace_back("penalty.counts", torch::tensor(counts, at::kDouble));
  }
  save_safetensors(tensors, file, metadata_of(context, model));
}

LoadedContext load_context(LanguageModel& model, const std::filesystem::path& path) {
  const formats::TensorFile file = formats::open_tensor_file(path);
  check_sizes(file, model.config());
  const Tensors tensors = read_tensors(path);
  const int64_t vocab_size = model.config().vocab_size;
  LoadedContext loaded;
  loaded.context.state = read_state(tensors, model, file.name());
  loaded.context.logits = read_logits(tensors, vocab_size, file.name());
  loaded.context.tokens = integers(take(tensors, "tokens", file.name()), "tokens", file.name());
  check_ids(loaded.context.tokens, vocab_size, (file.name() + ": tokens").c_str());
  loaded.context.occurrence = read_occurrence(tensors, vocab_size, file.name());
  loaded.context.draws = read_draws(file);
  const std::string stored = entry(file, "weights_crc32c");
  if (stored != fmt::format("{:08x}", weights_fingerprint(model))) {
    loaded.warning =
        fmt::format("{} was written with other weights than these; what follows may not make sense",
                    file.name());
  }
  return loaded;
}

}  // namespace rwkv::model
