#include <fmt/format.h>
#include <torch/torch.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "model/generate.h"
#include "model/text_stream.h"
#include "tests/golden/golden.h"
#include "tests/golden/golden_tensors.h"

// sampling.json: probabilities by the samplers of the rwkv package, of RWKV-LM v4neo and v1, of
// transformers' typical warper and of the rules in RWKV-LM's README; whole generation loops of the
// rwkv package with forced tokens. early/sampling.pth: the samplers of RWKV-LM v1 to v3.

namespace rwkv::golden {
namespace {

using model::SamplingConfig;
using nlohmann::json;

constexpr double kBound = 5e-6;       // of the JSON file, whose originals differ by rounding
constexpr double kEarlyBound = 1e-6;  // of the .pth file

at::Tensor tensor_of(const json& list) {
  std::vector<double> values;
  for (const json& value : list)
    values.push_back(value.is_null() ? -INFINITY : value.get<double>());
  return torch::tensor(values, at::kDouble);
}

/// The value of a key that may be absent or null.
double number(const json& object, const char* key, double otherwise) {
  const auto found = object.find(key);
  return found == object.end() || found->is_null() ? otherwise : found->get<double>();
}

SamplingConfig config_of(const json& entry) {
  SamplingConfig config;
  const std::string sampler = entry.at("sampler");
  config.temperature = number(entry, "temperature", 1);
  config.top_p = number(entry, "top_p", 1);
  config.top_k = static_cast<int64_t>(number(entry, "top_k", 0));
  config.top_p_x = number(entry, "x", 1);
  config.top_a = number(entry, "ratio", number(entry, "min_p_ratio", 0));
  config.top_a_power = number(entry, "power", number(entry, "min_p_pow", 2));
  config.typical_mass = number(entry, "mass", 1);
  if (sampler == "rwkv_lm_run") config.sampler = model::Sampler::kRwkvLm;
  if (sampler == "rwkv_v1") config.sampler = model::Sampler::kRwkvV1;
  if (sampler == "typical") config.sampler = model::Sampler::kTypical;
  return config;
}

void check_cases(const json& file, Report& report) {
  std::map<std::string, double> worst;
  for (const json& entry : file.at("cases")) {
    const at::Tensor logits =
        tensor_of(file.at("logits").at(entry.at("logits").get<std::string>()));
    const SamplingConfig config = config_of(entry);
    model::check(config, "");
    const at::Tensor ours = model::next_token_probabilities(logits.to(at::kFloat), config);
    double& largest = worst[entry.at("sampler")];
    largest = std::max(largest, max_difference(ours, tensor_of(entry.at("probs"))));
  }
  for (const auto& [sampler, difference] : worst) {
    report.compare(sampler + " probabilities", difference, kBound);
  }
}

/// A model whose logits are always zero; it records what it is fed.
class SilentModel final : public model::LanguageModel {
 public:
  explicit SilentModel(int64_t vocab_size) {
    config_.vocab_size = vocab_size;
    register_parameter("unused", at::zeros({1}));
  }
  at::Tensor forward(const at::Tensor& ids, model::State*, model::Positions) override {
    const auto* values = ids.const_data_ptr<int64_t>();
    calls.emplace_back(values, values + ids.numel());
    return at::zeros({1, 1, config_.vocab_size});
  }
  [[nodiscard]] const model::ModelConfig& config() const override { return config_; }

  std::vector<std::vector<int64_t>> calls;

 private:
  model::ModelConfig config_;
};

/// The token texts of the golden file.
class ListVocabulary final : public data::Vocabulary {
 public:
  explicit ListVocabulary(const json& texts) : texts_(texts.get<std::vector<std::string>>()) {}
  [[nodiscard]] int64_t size() const override { return std::ssize(texts_); }
  [[nodiscard]] std::vector<int64_t> encode(std::string_view) const override { return {}; }
  [[nodiscard]] std::string decode(std::span<const int64_t> ids) const override {
    std::string text;
    for (const int64_t id : ids) text += texts_.at(static_cast<size_t>(id));
    return text;
  }
  [[nodiscard]] std::string to_json() const override { return {}; }

 private:
  std::vector<std::string> texts_;
};

/// Runs the loop of one entry of `generate`. The forced tokens are drawn because all others are
/// masked after the logits were looked at.
struct Loop {
  explicit Loop(const json& entry) : vocabulary(entry.at("token_text")), silent(vocabulary.size()) {
    config = {.presence_penalty = entry.at("alpha_presence"),
              .frequency_penalty = entry.at("alpha_frequency"),
              .penalty_decay = entry.at("alpha_decay")};
    const auto prompt = entry.at("prompt_ids").get<std::vector<int64_t>>();
    const auto banned = entry.at("token_ban").get<std::vector<int64_t>>();
    const auto stops = entry.at("token_stop").get<std::vector<int64_t>>();
    model::TextStream stream(vocabulary, {});
    model::Context context;
    model::feed(silent, prompt, context, entry.at("chunk_len"));
    for (const int64_t forced : entry.at("forced_tokens").get<std::vector<int64_t>>()) {
      look(context, banned);
      if (std::ranges::find(stops, forced) != stops.end()) return;
      write(forced, context, stream);
    }
  }

  /// What the sampler would see.
  void look(const model::Context& context, const std::vector<int64_t>& banned) {
    at::Tensor row = context.logits.clone();
    for (const int64_t id : banned) row[id] = -INFINITY;
    model::apply_penalties(row, context.occurrence, config);
    logits.push_back(row);
  }
  void write(int64_t forced, model::Context& context, model::TextStream& stream) {
    model::GenerateOptions options;
    options.penalties = config;
    options.weight_of = [this](int64_t id) {
      return model::penalty_weight(config.penalty_weight, id, vocabulary.decode(std::array{id}));
    };
    options.adjust = [&](int64_t, at::Tensor& row) {
      row.fill_(-INFINITY);
      row[forced] = 0;
    };
    model::Generator generator(silent, options, context);
    pieces.push_back(stream.add(*generator.next()));
    generator.settle();
    text += pieces.back();
  }

  ListVocabulary vocabulary;
  SilentModel silent;
  model::PenaltyConfig config;
  std::vector<at::Tensor> logits;
  std::vector<std::string> pieces;
  std::string text;
};

void check_loop(const json& entry, const std::string& name, Report& report) {
  const Loop loop(entry);
  const json& expected = entry.at("logits_before_sampling");
  double worst = expected.size() == loop.logits.size() ? 0 : INFINITY;
  for (size_t i = 0; i < std::min(loop.logits.size(), expected.size()); ++i) {
    const at::Tensor golden = tensor_of(expected[i]);
    const at::Tensor known = golden.isfinite();
    if (!at::equal(known, loop.logits[i].isfinite())) worst = INFINITY;
    worst = std::max(worst,
                     max_difference(loop.logits[i].where(known, 0.0F), golden.where(known, 0.0)));
  }
  report.compare(name + ": logits before sampling", worst, kBound);
  report.equal(name + ": text", loop.text == entry.at("output").get<std::string>());
  report.equal(name + ": pieces",
               loop.pieces == entry.at("callbacks").get<std::vector<std::string>>());
  // The original stops before it feeds the last token of all; settle() feeds it.
  auto calls = entry.at("model_calls").get<std::vector<std::vector<int64_t>>>();
  auto ours = loop.silent.calls;
  if (ours.size() == calls.size() + 1) ours.pop_back();
  report.equal(name + ": model calls", ours == calls);
}

SamplingConfig early_config(int64_t kind, const at::Tensor& params) {
  const auto value = [&](int64_t i) { return params[i].item<double>(); };
  SamplingConfig config;
  config.temperature = value(0);
  if (kind == 1) {
    config.sampler = model::Sampler::kRwkvV1;
    config.top_k = static_cast<int64_t>(value(1));
    config.top_p = value(2) < 0 ? 1 : value(2);
    config.top_a = std::max(0.0, value(4));
    config.top_a_power = config.top_a > 0 ? value(3) : 2;
  } else {
    config.top_p = value(1);
    config.sampler = kind == 2 ? model::Sampler::kRwkvLm : model::Sampler::kChatRwkv;
    if (kind == 3) config.top_p_x = value(2);
  }
  return config;
}

}  // namespace

void check_sampling(const std::filesystem::path& path, Report& report) {
  std::ifstream stream(path);
  const json file = json::parse(stream);
  check_cases(file, report);
  for (size_t i = 0; i < file.at("generate").size(); ++i) {
    check_loop(file["generate"][i], fmt::format("generate {}", i), report);
  }
}

void check_early_sampling(const std::filesystem::path& path, Report& report) {
  Tensors golden = load_pth(path);
  std::map<int64_t, double> worst;
  for (int64_t n = 0; golden.contains(fmt::format("case{}.src", n)); ++n) {
    const std::string name = fmt::format("case{}.", n);
    const auto kind = golden.at(name + "kind").item<int64_t>();
    const at::Tensor params = golden.at(name + "params");
    const auto source = golden.at(name + "src").item<int64_t>();
    at::Tensor logits = golden.at(fmt::format("logits{}", source)).clone();
    if (kind == 3) logits[params[3].item<int64_t>()] = -INFINITY;
    const at::Tensor ours = model::next_token_probabilities(logits, early_config(kind, params));
    worst[kind] = std::max(worst[kind], max_difference(ours, golden.at(name + "probs")));
  }
  report.equal("number of cases", !worst.empty());
  for (const auto& [kind, difference] : worst) {
    report.compare(fmt::format("sampler of kind {}", kind), difference, kEarlyBound);
  }
}

}  // namespace rwkv::golden
