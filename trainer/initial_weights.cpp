#include "trainer/initial_weights.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <spdlog/spdlog.h>
#include <torch/torch.h>

#include <algorithm>
#include <any>
#include <filesystem>
#include <initializer_list>
#include <map>
#include <utility>

#include "data/base/error.h"
#include "data/tokenizers/open_vocabulary.h"
#include "model/weights.h"
#include "trainer/checkpoint.h"
#include "trainer/model_source.h"
#include "trainer/terminal_progress.h"

namespace rwkv::trainer {
namespace {

namespace fs = std::filesystem;

/// Visitor over the fields of a ModelConfig that remembers their values, or puts remembered ones
/// back where `wanted` says so.
class FieldCopier {
 public:
  using Wanted = std::function<bool(std::string_view key)>;

  FieldCopier() = default;
  /// A copier that assigns.
  FieldCopier(const FieldCopier& remembered, Wanted wanted)
      : values_(remembered.values_), wanted_(std::move(wanted)) {}

  template <typename... Rest>
  void integer(std::string_view key, int64_t& value, Rest&&... /*rest*/) {
    take(key, value);
  }
  template <typename... Rest>
  void count(std::string_view key, int64_t& value, Rest&&... /*rest*/) {
    take(key, value);
  }
  template <typename... Rest>
  void real(std::string_view key, double& value, Rest&&... /*rest*/) {
    take(key, value);
  }
  template <typename E, size_t N>
  void choice(std::string_view key, E& value, const std::array<Named<E>, N>& /*names*/,
              std::string_view /*help*/) {
    take(key, value);
  }
  void flag(std::string_view key, bool& value, std::string_view /*help*/) { take(key, value); }
  void word(std::string_view key, std::string& value,
            std::initializer_list<std::string_view> /*choices*/, std::string_view /*help*/) {
    take(key, value);
  }
  void real_or_word(std::string_view /*key*/, double& /*value*/, bool& /*is_word*/,
                    std::string_view /*word*/, double /*low*/, double /*high*/,
                    std::string_view /*help*/) {}  // emb_init, which no weight file tells

 private:
  template <typename T>
  void take(std::string_view key, T& value) {
    if (!wanted_) {
      values_[std::string(key)] = value;
    } else if (wanted_(key)) {
      value = std::any_cast<T>(values_.at(std::string(key)));
    }
  }

  std::map<std::string, std::any> values_;
  Wanted wanted_;
};

/// 0 stands for the usual width, so that equal models have equal configurations.
void use_default_names(model::ModelConfig& config) {
  if (config.dim_att == config.n_embd) config.dim_att = 0;
  if (config.dim_ffn == 4 * config.n_embd) config.dim_ffn = 0;
}

/// `config` with the fields of `source` that the user did not name.
RunConfig merged(const RunConfig& config, model::ModelConfig source) {
  FieldCopier remembered;
  model::ModelConfig::visit(source, remembered);
  const std::vector<std::string>& named = config.named_model_keys;
  FieldCopier copier(remembered, [&](std::string_view key) {
    return std::find(named.begin(), named.end(), fmt::format("model.{}", key)) == named.end();
  });
  RunConfig result = config;
  model::ModelConfig::visit(result.model, copier);
  use_default_names(result.model);
  return result;
}

/// The model that the run goes on with, that of its own checkpoint, or else the one that it starts
/// from: `init_from` may be gone by the time of a resume.
std::pair<model::ModelConfig, std::string> starting_model(const RunConfig& config) {
  const auto newest = CheckpointStore(config.train.out_dir).newest_valid(false);
  if (newest) {
    const CheckpointState state = read_checkpoint_state(*newest);
    return {parse_run_config(state.config_yaml, "config.yaml of the checkpoint").model,
            printable(newest->string())};
  }
  const fs::path weights = find_weights(config.train.init_from, "train.init_from");
  const auto file = formats::open_tensor_file(weights);
  model::ModelConfig found = model::config_of(file);
  if (found.head_qk > 0) found.head_qk_reduce = stored_head_qk_reduce(weights);
  return {found, file.name()};
}

void log_list(const char* what, const std::vector<std::string>& names) {
  if (!names.empty()) spdlog::warn("{} ({}): {}", what, names.size(), fmt::join(names, ", "));
}

/// Whether each id stands for the same bytes in both; ids that only one has must stand for none.
bool same_tokens(const data::Vocabulary& a, const data::Vocabulary& b) {
  const auto bytes = [](const data::Vocabulary& vocabulary, int64_t id) {
    return id < vocabulary.size() ? vocabulary.decode(std::span(&id, 1)) : std::string();
  };
  for (int64_t id = 0; id < std::max(a.size(), b.size()); ++id) {
    if (bytes(a, id) != bytes(b, id)) return false;
  }
  return true;
}

}  // namespace

RunConfig with_sizes_of_initial_weights(RunConfig config) {
  if (config.train.init_from.empty()) return config;
  const auto [source, where] = starting_model(config);
  const RunConfig result = merged(config, source);
  RunConfig wanted = result;
  wanted.model = source;
  wanted.model.emb_init = result.model.emb_init;
  wanted.model.emb_init_is_lr = result.model.emb_init_is_lr;
  wanted.model.head_qk_reduce = result.model.head_qk_reduce;  // may be set anew, as any file allows
  use_default_names(wanted.model);
  std::vector<std::string> problems;
  for (const Difference& d : differences(result, wanted)) {
    problems.push_back(
        fmt::format("{} is {} in the configuration and {} there", d.key, d.old_value, d.new_value));
  }
  if (!problems.empty() && !config.train.init_partial) {
    user_error(
        "train.init_from: {} holds another model: {}; leave these keys out, or take what fits with "
        "train.init_partial: true",
        where, fmt::join(problems, "; "));
  }
  return result;
}

void check_initial_vocabulary(const RunConfig& config, const data::Vocabulary* vocabulary) {
  if (config.train.init_from.empty()) return;
  const auto stored = vocabulary_beside(find_weights(config.train.init_from, "train.init_from"));
  if (!stored) return;
  // Ready-made tokens can be trained on whatever lies beside the weights, readable or not.
  if (vocabulary == nullptr && stored->filename() != "vocab.json") return;
  const auto trained = data::open_vocabulary(stored->string());
  const bool characters = !trained->may_be_padded();
  // Ready-made tokens do not say which tokenizer made them; characters come with their text.
  if (vocabulary == nullptr && !characters) return;
  if (vocabulary != nullptr && same_tokens(*vocabulary, *trained)) return;
  if (config.train.init_partial && vocabulary != nullptr && vocabulary->size() != trained->size()) {
    return;
  }
  const std::string_view key = characters ? "data.vocab_file" : "data.tokenizer";
  user_error("{}: the model of train.init_from knows other {} than {}; set {}: {}", key,
             characters ? "characters" : "tokens", printable(config.data.path), key,
             printable(stored->string()));
}

void load_initial_weights(const RunConfig& config, model::LanguageModel& model) {
  if (config.train.init_from.empty()) return;
  const auto file =
      formats::open_tensor_file(find_weights(config.train.init_from, "train.init_from"));
  if (!config.train.init_partial) {
    model::load_weights(model, file,
                        [](int64_t done, int64_t all) { show_bytes("loading", done, all); });
    spdlog::info("starting from {}", file.name());
    return;
  }
  const model::PartialLoad load = model::load_weights_partially(model, file);
  if (load.loaded == 0 && load.reshaped.empty() && load.stretched.empty()) {
    user_error("train.init_from: nothing in {} fits the model; name weights of the same family",
               file.name());
  }
  if (config.train.stage == 1 && !load.left_over.empty()) {
    user_error(
        "train.init_from: {} has tensors that the model of stage 1 lacks: {}; build a model "
        "that holds them, or name another file",
        file.name(), fmt::join(load.left_over, ", "));
  }
  spdlog::info("starting from {}: {} tensors taken as they are", file.name(), load.loaded);
  log_list("reshaped", load.reshaped);
  log_list("stretched to another length", load.stretched);
  log_list("missing in the file, so initial values stay", load.missing);
  log_list("of another shape, so initial values stay", load.unfit);
  log_list("left over in the file", load.left_over);
}

bool matches_pattern(std::string_view pattern, std::string_view text) {
  size_t p = 0;
  size_t t = 0;
  size_t star = std::string_view::npos;  // the last one, and how much of the text it took
  size_t taken = 0;
  while (t < text.size()) {
    if (p < pattern.size() && (pattern[p] == '?' || pattern[p] == text[t]) && pattern[p] != '*') {
      ++p, ++t;
    } else if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      taken = t;
    } else if (star != std::string_view::npos) {
      p = star + 1;
      t = ++taken;
    } else {
      return false;
    }
  }
  return pattern.substr(p).find_first_not_of('*') == std::string_view::npos;
}

void freeze(model::LanguageModel& model, const std::vector<std::string>& patterns) {
  int64_t frozen = 0;
  int64_t left = 0;
  for (const std::string& pattern : patterns) {
    bool found = false;
    for (const auto& entry : model.named_parameters()) {
      found = found || matches_pattern(pattern, entry.key());
    }
    if (!found) {
      user_error("optimizer.freeze: no parameter is called {}; 'rwkv info' lists the names",
                 printable(pattern, 80));
    }
  }
  for (auto& entry : model.named_parameters()) {
    const bool matched = std::any_of(patterns.begin(), patterns.end(), [&](const auto& pattern) {
      return matches_pattern(pattern, entry.key());
    });
    if (matched) entry.value().set_requires_grad(false);
    (matched ? frozen : left) += entry.value().numel();
  }
  if (left == 0) user_error("optimizer.freeze: nothing is left to train; freeze less");
  if (frozen > 0) spdlog::info("frozen: {} of {} numbers", frozen, frozen + left);
}

}  // namespace rwkv::trainer
