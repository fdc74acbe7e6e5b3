#include "trainer/checkpoint.h"

#include <fcntl.h>
#include <fmt/ranges.h>
#include <spdlog/spdlog.h>
#include <torch/torch.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <nlohmann/json.hpp>
#include <sstream>
#include <vector>

#include "data/base/atomic_file.h"
#include "data/base/crc32c.h"
#include "data/base/error.h"
#include "data/base/mapped_file.h"
#include "model/formats/tensor_file.h"
#include "model/weights.h"
#include "trainer/version.h"

namespace rwkv::trainer {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using nlohmann::ordered_json;

constexpr int kFormatVersion = 1;
constexpr const char* kModelFile = "model.safetensors";

std::string optimizer_file(int64_t rank, int64_t world_size) {
  return fmt::format("optim-{:05}-of-{:05}.safetensors", rank, world_size);
}

std::string read_text(const fs::path& path) {
  const MappedFile file(path);
  const auto bytes = file.bytes();
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

json read_json(const fs::path& path) {
  json parsed = json::parse(read_text(path), nullptr, /*allow_exceptions=*/false);
  if (!parsed.is_object()) {
    user_error("{} is no JSON object; use another checkpoint", printable(path.string()));
  }
  return parsed;
}

/// The step in "step-00000123", or -1.
int64_t step_of(const fs::path& folder) {
  const std::string name = folder.filename().string();
  constexpr std::string_view kPrefix = "step-";
  const std::string_view digits =
      std::string_view(name).substr(std::min(kPrefix.size(), name.size()));
  const bool fits =
      name.starts_with(kPrefix) && !digits.empty() && digits.size() <= 18 &&
      std::all_of(digits.begin(), digits.end(), [](char c) { return c >= '0' && c <= '9'; });
  return fits ? std::stoll(std::string(digits)) : -1;
}

/// All step-N folders, newest first. By number, not by date: clocks go backwards.
std::vector<fs::path> checkpoint_folders(const fs::path& folder) {
  std::vector<fs::path> found;
  std::error_code failed;
  for (const auto& entry : fs::directory_iterator(folder, failed)) {
    if (step_of(entry.path()) >= 0 && entry.is_directory(failed)) found.push_back(entry.path());
  }
  std::sort(found.begin(), found.end(),
            [](const fs::path& a, const fs::path& b) { return step_of(a) > step_of(b); });
  return found;
}

void remove_folder(const fs::path& folder) {
  std::error_code failed;
  fs::remove_all(folder, failed);
  if (failed) spdlog::warn("cannot remove {}: {}", printable(folder.string()), failed.message());
}

/// Files of a checkpoint while it is written: each is whole and on disk when its entry is made.
class Manifest {
 public:
  explicit Manifest(fs::path folder) : folder_(std::move(folder)) {}

  void add(const std::string& name, int64_t size_bytes, uint32_t crc32c) {
    files_[name] = {{"size_bytes", size_bytes}, {"crc32c", fmt::format("{:08x}", crc32c)}};
  }
  void write_text(const std::string& name, std::string_view text) {
    AtomicFile file(folder_ / name);
    file.write(text);
    add(name, file.size_bytes(), file.crc32c());
    file.commit();
  }
  void write_tensors(const std::string& name,
                     const std::vector<std::pair<std::string, at::Tensor>>& tensors) {
    const model::WrittenFile written = model::save_safetensors(tensors, folder_ / name);
    add(name, written.size_bytes, written.crc32c);
  }
  void commit() const {
    const ordered_json manifest{{"format_version", kFormatVersion}, {"files", files_}};
    write_file_atomically(folder_ / "manifest.json", manifest.dump(2) + "\n");
  }

 private:
  fs::path folder_;
  ordered_json files_ = ordered_json::object();
};

std::string state_json(const CheckpointState& state, int64_t world_size) {
  ordered_json entry{{"step", state.progress.step},
                     {"tokens", state.progress.tokens},
                     {"samples", state.progress.samples},
                     {"smoothed_loss", state.progress.smoothed_loss},
                     {"optimizer_steps", state.optimizer_steps},
                     {"last_betas", state.last_betas},
                     {"data_fingerprint", state.data_fingerprint},
                     {"world_size", world_size},
                     {"program_version", version_text()}};
  if (state.loss_scaler.enabled) {
    entry["loss_scale"] = {{"scale", state.loss_scaler.scale},
                           {"hysteresis", state.loss_scaler.hysteresis},
                           {"good_steps", state.loss_scaler.good_steps}};
  }
  return entry.dump(2) + "\n";
}

/// Removes the folder of an unfinished checkpoint when writing fails.
class FolderGuard {
 public:
  explicit FolderGuard(fs::path folder) : folder_(std::move(folder)) {}
  FolderGuard(const FolderGuard&) = delete;
  FolderGuard& operator=(const FolderGuard&) = delete;
  ~FolderGuard() {
    if (!done_) remove_folder(folder_);
  }
  void done() { done_ = true; }

 private:
  fs::path folder_;
  bool done_ = false;
};

void rename_folder(const fs::path& from, const fs::path& to) {
  std::error_code failed;
  fs::rename(from, to, failed);
  if (failed) {
    user_error("cannot rename {} to {}: {}; check the folder's rights", printable(from.string()),
               printable(to.string()), failed.message());
  }
}

void create_anew(const fs::path& folder) {
  remove_folder(folder);
  std::error_code failed;
  fs::create_directories(folder, failed);
  if (failed) {
    user_error("cannot create {}: {}; free space or check the folder's rights",
               printable(folder.string()), failed.message());
  }
}

/// Runs `work` on every rank and collects what it returns. What it throws on one rank is thrown on
/// all of them, so that they go on alike.
std::vector<std::string> run_on_all(RankGroup& group, const std::function<std::string()>& work) {
  if (group.is_alone()) return {work()};
  std::string outcome;
  try {
    outcome = "+" + work();
  } catch (const UserError& error) {
    outcome = std::string("-") + error.what();
  }
  std::vector<std::string> outcomes = group.exchange("the writing of a checkpoint", outcome);
  for (size_t r = 0; r < outcomes.size(); ++r) {
    if (outcomes[r].starts_with('-')) {
      user_error("{}: {}", group.name_of(static_cast<int64_t>(r)), outcomes[r].substr(1));
    }
    outcomes[r].erase(0, 1);
  }
  return outcomes;
}

void write_texts(Manifest& manifest, const CheckpointState& state,
                 const data::Vocabulary* vocabulary, int64_t world_size) {
  manifest.write_text("state.json", state_json(state, world_size));
  manifest.write_text("config.yaml", state.config_yaml);
  const std::string vocab_json = vocabulary != nullptr ? vocabulary->to_json() : "";
  if (!vocab_json.empty()) manifest.write_text("vocab.json", vocab_json);
}

/// Enters the file that rank `rank` wrote, as it described it: "SIZE CRC".
void add_part(Manifest& manifest, int64_t rank, int64_t world_size,
              const std::vector<std::string>& parts) {
  std::istringstream words(parts[static_cast<size_t>(rank)]);
  int64_t size_bytes = 0;
  uint32_t crc = 0;
  words >> size_bytes >> crc;
  TORCH_CHECK(words, "checkpoint: rank ", rank, " says '", parts[static_cast<size_t>(rank)], "'");
  manifest.add(optimizer_file(rank, world_size), size_bytes, crc);
}

/// Gives a finished checkpoint its name. A damaged folder of this step may be in the way; it is
/// kept for study under another name.
void publish(const fs::path& temporary, const fs::path& target) {
  if (fs::exists(target)) rename_folder(target, target.string() + ".damaged");
  rename_folder(temporary, target);
}

/// The optimizer's files that a manifest lists, in order of ranks; empty when one is missing.
std::vector<std::string> optimizer_files(const json& files) {
  for (const auto& [name, entry] : files.items()) {
    const size_t of = name.find("-of-");
    if (!name.starts_with("optim-") || of == std::string::npos) continue;
    const int64_t world_size = std::atoll(name.c_str() + of + 4);
    std::vector<std::string> names;
    for (int64_t r = 0; r < world_size; ++r) {
      names.push_back(optimizer_file(r, world_size));
      if (!files.contains(names.back())) return {};
    }
    return names;
  }
  return {};
}

}  // namespace

void CheckpointStore::save(const CheckpointState& state, ParallelOptimizer& optimizer,
                           const data::Vocabulary* vocabulary, int64_t keep_last) const {
  RankGroup& group = optimizer.group();
  const fs::path target = folder_ / fmt::format("step-{:08}", state.progress.step);
  const fs::path temporary = target.string() + ".tmp";
  const model::NamedTensors moments = optimizer.moments_to_write();
  model::NamedTensors masters = optimizer.masters();
  model::sort_for_file(masters);

  std::optional<FolderGuard> guard;
  Manifest manifest(temporary);
  run_on_all(group, [&]() -> std::string {
    if (group.is_main()) {
      create_anew(temporary);
      guard.emplace(temporary);
    }
    return {};
  });
  const auto parts = run_on_all(group, [&] {
    if (group.is_main()) {
      manifest.write_tensors(kModelFile, masters);
      write_texts(manifest, state, vocabulary, group.world_size());
    }
    const std::string name = optimizer_file(group.rank(), group.world_size());
    const model::WrittenFile written = model::save_safetensors(moments, temporary / name);
    return fmt::format("{} {}", written.size_bytes, written.crc32c);
  });
  run_on_all(group, [&]() -> std::string {
    if (!group.is_main()) return {};
    for (int64_t r = 0; r < group.world_size(); ++r)
      add_part(manifest, r, group.world_size(), parts);
    manifest.commit();
    sync_folder(temporary);
    publish(temporary, target);
    guard->done();
    sync_folder(folder_);
    write_file_atomically(folder_ / "latest", target.filename().string() + "\n");
    return {};
  });
  // The one just written is valid, so older ones may go. Damaged newer ones are left alone.
  int64_t kept = 0;
  for (const fs::path& old : checkpoint_folders(folder_)) {
    if (!group.is_main()) break;
    if (step_of(old) <= state.progress.step && ++kept > keep_last) remove_folder(old);
  }
}

std::optional<fs::path> CheckpointStore::newest_valid(bool damaged_is_error) const {
  const std::vector<fs::path> folders = checkpoint_folders(folder_);
  std::string first_damage;
  for (const fs::path& folder : folders) {
    std::string damage;
    try {
      damage = checkpoint_damage(folder);
    } catch (const UserError& error) {
      damage = error.what();
    }
    if (damage.empty()) return folder;
    spdlog::warn("skipping {}: {}", printable(folder.string()), damage);
    if (first_damage.empty()) first_damage = damage;
  }
  if (!folders.empty() && damaged_is_error) {
    user_error(
        "no checkpoint in {} is whole (the newest: {}); restore one, choose another train.out_dir, "
        "or start "
        "over with --from-scratch",
        printable(folder_.string()), first_damage);
  }
  return std::nullopt;
}

void CheckpointStore::remove_leftovers() const {
  std::error_code failed;
  std::vector<fs::path> leftovers;
  for (const auto& entry : fs::directory_iterator(folder_, failed)) {
    const std::string name = entry.path().filename().string();
    const bool folder = name.starts_with("step-") && name.ends_with(".tmp");
    const bool file = name.find(".tmp-") != std::string::npos;
    if (folder || file) leftovers.push_back(entry.path());
  }
  for (const fs::path& path : leftovers) {
    spdlog::warn("removing {}, left behind by an interrupted save", printable(path.string()));
    remove_folder(path);
  }
}

bool is_checkpoint(const fs::path& folder) {
  std::error_code failed;
  return fs::exists(folder / "manifest.json", failed) && fs::exists(folder / "state.json", failed);
}

std::string checkpoint_damage(const fs::path& checkpoint) {
  std::error_code unknown;
  if (!fs::exists(checkpoint / "manifest.json", unknown)) return "manifest.json is missing";
  const json manifest = json::parse(read_text(checkpoint / "manifest.json"), nullptr, false);
  if (!manifest.is_object() || !manifest.contains("format_version") ||
      !manifest.contains("files") || !manifest["format_version"].is_number_integer() ||
      !manifest["files"].is_object()) {
    return "manifest.json is damaged";
  }
  if (manifest["format_version"].get<int64_t>() != kFormatVersion) {
    return fmt::format("it has format version {}, this program reads {}",
                       manifest["format_version"].get<int64_t>(), kFormatVersion);
  }
  for (const char* name : {kModelFile, "state.json", "config.yaml"}) {
    if (!manifest["files"].contains(name))
      return fmt::format("manifest.json does not list {}", name);
  }
  if (optimizer_files(manifest["files"]).empty()) {
    return "manifest.json does not list all optim-R-of-W.safetensors";
  }
  for (const auto& [name, entry] : manifest["files"].items()) {
    if (fs::path(name).filename() != name || !entry.is_object() || !entry.contains("size_bytes") ||
        !entry.contains("crc32c") || !entry["size_bytes"].is_number_integer() ||
        !entry["crc32c"].is_string()) {
      return "manifest.json is damaged";
    }
    if (!fs::exists(checkpoint / name, unknown))
      return fmt::format("{} is missing", printable(name));
    const MappedFile file(checkpoint / name);
    if (file.size_bytes() != entry["size_bytes"].get<int64_t>()) {
      return fmt::format("{} has {} bytes instead of {}", printable(name), file.size_bytes(),
                         entry["size_bytes"].get<int64_t>());
    }
    if (fmt::format("{:08x}", crc32c(file.bytes())) != entry["crc32c"].get<std::string>()) {
      return fmt::format("{} does not agree with its checksum", printable(name));
    }
  }
  return {};
}

CheckpointState read_checkpoint_state(const fs::path& checkpoint) {
  const json entry = read_json(checkpoint / "state.json");
  CheckpointState state;
  try {
    entry.at("step").get_to(state.progress.step);
    entry.at("tokens").get_to(state.progress.tokens);
    entry.at("samples").get_to(state.progress.samples);
    entry.at("smoothed_loss").get_to(state.progress.smoothed_loss);
    entry.at("optimizer_steps").get_to(state.optimizer_steps);
    entry.at("last_betas").get_to(state.last_betas);
    if (entry.contains("loss_scale")) {
      state.loss_scaler.enabled = true;
      entry["loss_scale"].at("scale").get_to(state.loss_scaler.scale);
      entry["loss_scale"].at("hysteresis").get_to(state.loss_scaler.hysteresis);
      entry["loss_scale"].at("good_steps").get_to(state.loss_scaler.good_steps);
    }
    entry.at("data_fingerprint").get_to(state.data_fingerprint);
    entry.at("program_version").get_to(state.program_version);
  } catch (const json::exception& error) {
    user_error("{}: {}; use another checkpoint", printable((checkpoint / "state.json").string()),
               error.what());
  }
  state.config_yaml = read_text(checkpoint / "config.yaml");
  return state;
}

void load_checkpoint(const fs::path& checkpoint, model::LanguageModel& model,
                     ParallelOptimizer& optimizer) {
  const formats::TensorFile masters = formats::open_tensor_file(checkpoint / kModelFile);
  model::load_weights(model, masters);
  std::vector<formats::TensorFile> files;
  for (const std::string& name :
       optimizer_files(read_json(checkpoint / "manifest.json")["files"])) {
    files.push_back(formats::open_tensor_file(checkpoint / name));
  }
  const auto find = [&](const std::string& name) {
    for (const formats::TensorFile& file : files) {
      const formats::TensorInfo* info = file.find(name);
      if (info != nullptr) return std::pair(&file, info);
    }
    return std::pair<const formats::TensorFile*, const formats::TensorInfo*>();
  };
  std::vector<std::string> problems;
  for (const auto& [name, shape] : optimizer.moment_shapes()) {
    const formats::TensorInfo* found = find(name).second;
    if (found == nullptr) {
      problems.push_back(name + " is missing");
    } else if (at::IntArrayRef(shape) != at::IntArrayRef(found->shape)) {
      problems.push_back(name + " has another shape");
    }
  }
  if (!problems.empty()) {
    user_error("{} does not fit the model: {}", printable(checkpoint.string()),
               fmt::join(problems, "; "));
  }
  const auto read_master = [&](const std::string& name, const at::Tensor& into) {
    model::read_into(masters, *masters.find(name), into);
  };
  const auto read_moment = [&](const std::string& name, const at::Tensor& into) {
    const auto [file, info] = find(name);
    model::read_into(*file, *info, into);
  };
  optimizer.restore(read_master, read_moment);
}

}  // namespace rwkv::trainer
