#include "trainer/apps/sampling_options.h"

#include <algorithm>
#include <string>
#include <vector>

#include "data/base/error.h"
#include "model/sampling_fields.h"
#include "model/setting_check.h"

namespace rwkv::apps {
namespace {

constexpr int64_t kMostTokens = 1'000'000'000;

/// "--top-p,--top_p": the field is named with underscores everywhere else.
std::string spellings(const std::string& name) {
  const std::string hyphens = model::setting_name("--", name);
  return name.find('_') == std::string::npos ? hyphens : hyphens + ",--" + name;
}

template <typename E, size_t N>
std::vector<std::string> words(const std::array<Named<E>, N>& names) {
  std::vector<std::string> list;
  for (const auto& entry : names) list.emplace_back(entry.name);
  return list;
}

template <typename E, size_t N>
E value_of(const std::array<Named<E>, N>& names, const std::string& word) {
  const auto found =
      std::find_if(names.begin(), names.end(), [&](const auto& n) { return n.name == word; });
  if (found == names.end()) throw std::logic_error("the command line let a wrong word pass");
  return found->value;
}

}  // namespace

void add_sampling_options(CLI::App& command, SamplingArguments& arguments) {
  command.add_option("--tokens", arguments.tokens, "How many tokens to write at most")
      ->capture_default_str();
  command.add_option("--seed", arguments.seed, "The same seed writes the same text")
      ->capture_default_str();
  command.add_option("--sampler", arguments.sampler, "Order of the filters, see docs/generate.md")
      ->check(CLI::IsMember(words(model::kSamplerNames)))
      ->capture_default_str();
  const auto add = [&command](const std::string& name, auto& value, const model::FieldInfo& info) {
    command.add_option(spellings(name), value, info.help)->capture_default_str();
  };
  model::visit_sampling(arguments.sampling, add);
  model::visit_penalties(arguments.penalties, add);
  command
      .add_option(spellings("penalty_weight"), arguments.penalty_weight,
                  "Tokens that the frequency penalty counts")
      ->check(CLI::IsMember(words(model::kPenaltyWeightNames)))
      ->capture_default_str();
}

model::GenerateOptions generate_options(const SamplingArguments& arguments) {
  if (arguments.tokens < 0 || arguments.tokens > kMostTokens) {
    user_error("--tokens: {} is out of range; use 0 to {}", arguments.tokens, kMostTokens);
  }
  // The command line gives the largest number for all that are larger still.
  if (arguments.seed < 0 || arguments.seed == INT64_MAX) {
    user_error("--seed: {} is out of range; use 0 to {}", arguments.seed, INT64_MAX - 1);
  }
  model::GenerateOptions options{.sampling = arguments.sampling,
                                 .tokens = arguments.tokens,
                                 .seed = static_cast<uint64_t>(arguments.seed),
                                 .penalties = arguments.penalties};
  options.sampling.sampler = value_of(model::kSamplerNames, arguments.sampler);
  options.penalties.penalty_weight = value_of(model::kPenaltyWeightNames, arguments.penalty_weight);
  model::check(options.sampling, "--");
  model::check(options.penalties, "--");
  return options;
}

}  // namespace rwkv::apps
