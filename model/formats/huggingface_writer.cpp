#include "model/formats/huggingface_writer.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "data/base/atomic_file.h"
#include "data/base/error.h"
#include "data/base/mapped_file.h"
#include "model/formats/bytes.h"
#include "model/formats/safetensors.h"

namespace rwkv::formats {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using nlohmann::ordered_json;
using std::string_view_literals::operator""sv;

constexpr std::string_view kEndOfText = "<|endoftext|>";

std::string name_of(const fs::path& path) { return printable(path.string(), 4096); }

/// Whether a file may be lost when such a folder is replaced.
bool belongs_to_export(const std::string& name) {
  constexpr std::array kNames = {
      "config.json"sv,    "generation_config.json"sv, "model.safetensors.index.json"sv,
      "tokenizer.json"sv, "tokenizer_config.json"sv,  "special_tokens_map.json"sv,
      "vocab.json"sv};
  const bool shard = name.starts_with("model") && name.ends_with(".safetensors");
  const bool vocabulary = name.starts_with("rwkv_vocab") && name.ends_with(".txt");
  return shard || vocabulary || std::find(kNames.begin(), kNames.end(), name) != kNames.end();
}

void check_replaceable(const fs::path& folder) {
  std::error_code failed;
  if (!fs::exists(folder, failed)) return;
  for (const auto& entry : fs::directory_iterator(folder, failed)) {
    const std::string name = entry.path().filename().string();
    if (entry.is_regular_file(failed) && belongs_to_export(name)) continue;
    user_error(
        "{} holds {}, which is no part of an export and would be lost; choose another folder",
        name_of(folder), printable(name));
  }
  if (failed) user_error("cannot read {}: {}", name_of(folder), failed.message());
}

/// Consecutive tensors of at most `shard_bytes`, as places in the list.
std::vector<std::vector<size_t>> split(std::span<const int64_t> sizes, int64_t shard_bytes) {
  std::vector<std::vector<size_t>> shards;
  int64_t room = 0;
  for (size_t i = 0; i < sizes.size(); ++i) {
    if (shards.empty() || sizes[i] > room) {
      shards.emplace_back();
      room = shard_bytes;
    }
    shards.back().push_back(i);
    room = std::max<int64_t>(0, room - sizes[i]);
  }
  return shards;
}

/// Whether the file is a tokenizer.json of the tokenizers library; `specials` gets whether it knows
/// <|endoftext|>.
bool is_tokenizer_json(std::span<const std::byte> bytes, bool& knows_end) {
  const std::string_view text = as_text(bytes);
  const json parsed = json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
  if (!parsed.is_object() || !parsed.contains("model") || !parsed["model"].is_object())
    return false;
  const auto added = parsed.find("added_tokens");
  if (added == parsed.end() || !added->is_array()) return true;
  knows_end = std::any_of(added->begin(), added->end(), [](const json& token) {
    return token.is_object() && token.contains("content") && token["content"].is_string() &&
           token["content"].get<std::string>() == kEndOfText;
  });
  return true;
}

}  // namespace

HuggingFaceFolder::HuggingFaceFolder(fs::path path, bool replace) : path_(std::move(path)) {
  if (replace) check_replaceable(path_);
  if (!path_.has_filename()) path_ = path_.parent_path();  // "folder/"
  temporary_ = path_.string() + ".tmp-" + std::to_string(::getpid());
  std::error_code failed;
  fs::remove_all(temporary_, failed);
  if (!fs::create_directory(temporary_, failed)) {
    user_error("cannot create {}: {}; check the folder's rights", name_of(temporary_),
               failed.message());
  }
}

HuggingFaceFolder::~HuggingFaceFolder() {
  std::error_code ignored;
  if (!committed_) fs::remove_all(temporary_, ignored);
}

void HuggingFaceFolder::write_weights(std::span<const TensorSpec> specs, const TensorBytes& bytes,
                                      int64_t shard_bytes) {
  const std::vector<int64_t> sizes = checked_spec_sizes(specs);
  const auto shards = split(sizes, shard_bytes);
  ordered_json weight_map = ordered_json::object();
  int64_t total = 0;
  for (size_t s = 0; s < shards.size(); ++s) {
    const std::string name =
        shards.size() == 1 ? "model.safetensors"
                           : fmt::format("model-{:05}-of-{:05}.safetensors", s + 1, shards.size());
    std::vector<TensorSpec> part;
    for (const size_t i : shards[s]) {
      part.push_back(specs[i]);
      weight_map[specs[i].name] = name;
      total += sizes[i];
    }
    write_safetensors(temporary_ / name, part,
                      [&](size_t index) { return bytes(shards[s].at(index)); });
  }
  if (shards.size() == 1) return;
  const ordered_json index{{"metadata", {{"total_size", total}}}, {"weight_map", weight_map}};
  write_text("model.safetensors.index.json", index.dump(2) + "\n");
}

void HuggingFaceFolder::write_text(const std::string& name, std::string_view text) {
  write_file_atomically(temporary_ / name, text);
}

void HuggingFaceFolder::copy_tokenizer(const fs::path& file) {
  const MappedFile mapped(file);
  const std::string name = file.filename().string();
  bool knows_end = false;
  if (!is_tokenizer_json(mapped.bytes(), knows_end)) {
    if (!belongs_to_export(name) || name.starts_with("model") || fs::exists(temporary_ / name)) {
      user_error(
          "--tokenizer: {} is no tokenizer.json, rwkv_vocab*.txt or vocab.json; name the file that "
          "the model was trained with",
          name_of(file));
    }
    return write_text(name, as_text(mapped.bytes()));
  }
  write_text("tokenizer.json", as_text(mapped.bytes()));
  ordered_json config{{"tokenizer_class", "PreTrainedTokenizerFast"}};
  ordered_json specials = ordered_json::object();
  if (knows_end) {
    for (const char* key : {"bos_token", "eos_token", "unk_token"})
      specials[key] = std::string(kEndOfText);
  }
  config.update(specials);
  write_text("tokenizer_config.json", config.dump(2) + "\n");
  write_text("special_tokens_map.json", specials.dump(2) + "\n");
}

void HuggingFaceFolder::commit() {
  sync_folder(temporary_);
  const bool replace = fs::exists(path_);
  if (::renameat2(AT_FDCWD, temporary_.c_str(), AT_FDCWD, path_.c_str(),
                  replace ? RENAME_EXCHANGE : RENAME_NOREPLACE) != 0) {
    rename_in_steps(replace);
  }
  committed_ = true;
  std::error_code ignored;
  fs::remove_all(temporary_, ignored);  // the old folder, after an exchange
  sync_folder(path_.has_parent_path() ? path_.parent_path() : fs::path("."));
}

/// For file systems that cannot exchange two folders.
void HuggingFaceFolder::rename_in_steps(bool replace) {
  const fs::path aside = path_.string() + ".old-" + std::to_string(::getpid());
  const auto rename = [&](const fs::path& from, const fs::path& to) {
    if (::rename(from.c_str(), to.c_str()) == 0) return;
    user_error("cannot rename {} to {}: {}; check the folder's rights", name_of(from), name_of(to),
               std::strerror(errno));
  };
  if (replace) rename(path_, aside);
  rename(temporary_, path_);
  std::error_code ignored;
  fs::remove_all(aside, ignored);
}

}  // namespace rwkv::formats
