#include "model/formats/huggingface.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>
#include <vector>

#include "data/base/error.h"
#include "model/formats/bytes.h"
#include "model/formats/tensor_names.h"

namespace rwkv::formats {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using nlohmann::ordered_json;

constexpr size_t kMaxJsonBytes = 100'000'000;
// In the order of preference. An index goes before the file it replaces.
constexpr const char* kWeightNames[] = {"model.safetensors.index.json", "model.safetensors",
                                        "pytorch_model.bin.index.json", "pytorch_model.bin"};
constexpr double kLayerNormEps = 1e-5;

std::string name_of(const fs::path& path) { return printable(path.string(), 4096); }

json parse_object(std::span<const std::byte> bytes, const std::string& name) {
  const std::string_view text = as_text(bytes);
  json parsed;
  if (text.size() <= kMaxJsonBytes) {
    parsed = json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
  }
  if (!parsed.is_object()) {
    user_error("{} is no JSON object; fetch or save the model's folder again", name);
  }
  return parsed;
}

/// The map from tensors to the files that hold them; files are plain names.
std::map<std::string, std::set<std::string>> tensors_by_shard(const json& index,
                                                              const std::string& name) {
  const auto map = index.find("weight_map");
  if (map == index.end() || !map->is_object() || map->empty()) {
    user_error("{}: its weight_map is missing or empty; fetch the model's folder again", name);
  }
  std::map<std::string, std::set<std::string>> shards;
  for (const auto& [tensor, file] : map->items()) {
    const std::string shard = file.is_string() ? file.get<std::string>() : "";
    const bool plain = !shard.empty() && shard != "." && shard != ".." &&
                       shard.find_first_of(std::string_view("/\\\0", 3)) == std::string::npos;
    if (!plain) {
      user_error(
          "{}: tensor {} lies in \"{}\", which is no plain file name; fetch the folder again", name,
          printable(tensor), printable(shard));
    }
    shards[shard].insert(tensor);
  }
  return shards;
}

/// Reads one shard and keeps the tensors that the index expects of it.
void add_shard(const fs::path& path, const std::set<std::string>& expected,
               std::vector<MappedFile>& files, TensorFileContents& out) {
  MappedFile file(path);
  const std::string name = name_of(path);
  TensorFileContents shard = parse_one_container(file.bytes(), name);
  std::set<std::string> missing = expected;
  for (TensorInfo& tensor : shard.tensors) {
    if (missing.erase(tensor.name) > 0) out.tensors.push_back(std::move(tensor));
  }
  if (!missing.empty()) {
    user_error("{}: {} of its tensors are missing, the first is {}; fetch the shard again", name,
               missing.size(), printable(*missing.begin()));
  }
  out.kind = shard.kind;
  out.warnings.insert(out.warnings.end(), shard.warnings.begin(), shard.warnings.end());
  for (auto& buffer : shard.buffers) out.buffers.push_back(std::move(buffer));
  files.push_back(std::move(file));
}

struct Opened {
  std::vector<MappedFile> files;
  TensorFileContents contents;
};

Opened open_shards(const fs::path& index_path) {
  Opened opened;
  MappedFile index_file(index_path);
  const std::string name = name_of(index_path);
  const json index = parse_object(index_file.bytes(), name);
  const auto shards = tensors_by_shard(index, name);
  for (const auto& [file, tensors] : shards) {
    add_shard(index_path.parent_path() / file, tensors, opened.files, opened.contents);
  }
  opened.contents.kind += fmt::format(" in {} shards", shards.size());
  use_released_names(opened.contents.tensors, name);
  return opened;
}

fs::path weights_in(const fs::path& folder) {
  for (const char* name : kWeightNames) {
    std::error_code ignored;
    if (fs::exists(folder / name, ignored)) return folder / name;
  }
  return {};
}

/// A whole number of config.json, or nothing when it is missing or null.
std::optional<int64_t> number_in(const json& config, const char* key, const std::string& name) {
  const auto found = config.find(key);
  if (found == config.end() || found->is_null()) return std::nullopt;
  if (!found->is_number_integer()) {
    user_error("{}: {} is no whole number; fetch the file again", name, key);
  }
  return found->get<int64_t>();
}

void check_kind(const json& config, const std::string& name) {
  const auto type = config.find("model_type");
  if (type == config.end()) return;
  if (!type->is_string() || type->get<std::string>() != "rwkv") {
    user_error(
        "{}: model_type is {}, only RWKV-4 (\"rwkv\") is read from Hugging Face folders; use the "
        "model's .pth",
        name, type->is_string() ? printable(type->get<std::string>(), 60) : "no text");
  }
  const auto eps = config.find("layer_norm_epsilon");
  if (eps != config.end() && eps->is_number() && eps->get<double>() != kLayerNormEps) {
    user_error("{}: layer_norm_epsilon is {}, RWKV-4 here always has {}; this model cannot be run",
               name, eps->get<double>(), kLayerNormEps);
  }
}

/// Lists every size in which config.json and tensors differ.
void check_sizes(const json& config, const Layout& layout, const std::string& name) {
  const int64_t hidden = number_in(config, "hidden_size", name).value_or(layout.n_embd);
  const std::pair<const char*, std::pair<std::optional<int64_t>, int64_t>> sizes[] = {
      {"vocab_size", {number_in(config, "vocab_size", name), layout.vocab_size}},
      {"hidden_size", {hidden, layout.n_embd}},
      {"num_hidden_layers", {number_in(config, "num_hidden_layers", name), layout.n_layer}},
      {"attention_hidden_size",
       {number_in(config, "attention_hidden_size", name).value_or(hidden), layout.dim_att}},
      {"intermediate_size",
       {number_in(config, "intermediate_size", name).value_or(4 * layout.n_embd), layout.dim_ffn}},
  };
  std::vector<std::string> problems;
  for (const auto& [key, both] : sizes) {
    if (!both.first || *both.first == both.second) continue;
    problems.push_back(fmt::format("{} is {}, the tensors have {}", key, *both.first, both.second));
  }
  if (problems.empty()) return;
  user_error("{}: {}; take config.json and weights from the same model", name,
             fmt::join(problems, "; "));
}

/// With tied embeddings the file has no head of its own.
void tie_head(const json& config, TensorFileContents& contents) {
  const auto tied = config.find("tie_word_embeddings");
  if (tied == config.end() || !tied->is_boolean() || !tied->get<bool>()) return;
  const auto named = [&](std::string_view name) {
    return std::find_if(contents.tensors.begin(), contents.tensors.end(),
                        [&](const TensorInfo& tensor) { return tensor.name == name; });
  };
  const auto emb = named("emb.weight");
  if (emb == contents.tensors.end() || named("head.weight") != contents.tensors.end()) return;
  TensorInfo head = *emb;
  head.name = "head.weight";
  contents.tensors.push_back(std::move(head));
}

void apply_config(const fs::path& folder, TensorFileContents& contents) {
  const fs::path path = folder / "config.json";
  std::error_code ignored;
  if (!fs::exists(path, ignored)) return;
  const MappedFile file(path);
  const std::string name = name_of(path);
  const json config = parse_object(file.bytes(), name);
  check_kind(config, name);
  tie_head(config, contents);
  if (const auto layout = recognise_rwkv(shapes_of(contents.tensors))) {
    check_sizes(config, *layout, name);
  }
}

}  // namespace

bool is_huggingface_folder(const fs::path& folder) { return !weights_in(folder).empty(); }

TensorFile open_huggingface_folder(const fs::path& folder) {
  const fs::path weights = weights_in(folder);
  if (weights.empty()) {
    user_error(
        "{} holds no model.safetensors and no pytorch_model.bin (or their index); name a weight "
        "file, a checkpoint or a Hugging Face folder",
        name_of(folder));
  }
  Opened opened;
  if (weights.extension() == ".json") {
    opened = open_shards(weights);
  } else {
    opened.files.emplace_back(weights);
    opened.contents = parse_tensor_file(opened.files.back().bytes(), name_of(weights));
  }
  apply_config(folder, opened.contents);
  opened.contents.kind += " in a folder";
  return {folder, std::move(opened.files), std::move(opened.contents)};
}

bool is_shard_index(std::span<const std::byte> bytes) {
  const std::string_view text = as_text(bytes);
  const size_t begin = text.find_first_not_of(" \t\r\n");
  return begin != std::string_view::npos && text[begin] == '{' && text.size() <= kMaxJsonBytes &&
         text.find("\"weight_map\"") != std::string_view::npos;
}

TensorFile open_sharded(const fs::path& index) {
  Opened opened = open_shards(index);
  return {index, std::move(opened.files), std::move(opened.contents)};
}

std::string huggingface_config(const Layout& layout, const HuggingFaceOptions& options) {
  const bool half = options.dtype == DType::f16;
  const char* dtype = half ? "float16" : options.dtype == DType::bf16 ? "bfloat16" : "float32";
  // The stream is halved every few layers only where fp16 needs it: elsewhere it costs accuracy.
  const ordered_json config{
      {"architectures", {"RwkvForCausalLM"}},
      {"model_type", "rwkv"},
      {"vocab_size", layout.vocab_size},
      {"context_length", options.ctx_len},
      {"hidden_size", layout.n_embd},
      {"num_hidden_layers", layout.n_layer},
      {"attention_hidden_size", layout.dim_att},
      {"intermediate_size", layout.dim_ffn},
      {"layer_norm_epsilon", kLayerNormEps},
      {"bos_token_id", options.bos_token_id},
      {"eos_token_id", options.eos_token_id},
      {"rescale_every", half ? 6 : 0},
      {"tie_word_embeddings", false},
      // transformers gives the state the width n_embd, so it cannot keep one of dim_att.
      {"use_cache", layout.dim_att == layout.n_embd},
      {"dtype", dtype},
      {"torch_dtype", dtype},
  };
  return config.dump(2) + "\n";
}

std::string huggingface_generation_config(const HuggingFaceOptions& options) {
  const ordered_json config{{"bos_token_id", options.bos_token_id},
                            {"eos_token_id", options.eos_token_id}};
  return config.dump(2) + "\n";
}

}  // namespace rwkv::formats
