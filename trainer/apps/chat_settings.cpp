#include "trainer/apps/chat_settings.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "data/base/error.h"
#include "model/sampling_fields.h"
#include "model/setting_check.h"

namespace rwkv::apps {
namespace {

template <typename Number>
Number parse(std::string_view name, std::string_view text) {
  Number value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) {
    user_error("{}: '{}' is no number; write e.g. /set {} 1", name, printable(text, 40), name);
  }
  return value;
}

/// A visitor that sets the field called `name`.
struct Setter {
  std::string_view name;
  std::string_view value;
  bool found = false;

  template <typename Number>
  void operator()(std::string_view field, Number& number, const model::FieldInfo& info) {
    if (field != name) return;
    number = parse<Number>(name, value);
    found = true;
    model::SettingCheck{""}(name.data(), number, info);
  }
};

/// Calls visitor(name, value, info) for every number of `options`.
template <typename Self, typename Visitor>
void visit(Self& options, Visitor&& visitor) {
  model::visit_sampling(options.sampling, visitor);
  model::visit_penalties(options.penalties, visitor);
  visitor("tokens", options.tokens, model::FieldInfo{1, 1e9, "Longest reply"});
}

void set_sampler(model::SamplingConfig& sampling, std::string_view word) {
  const auto found = std::ranges::find_if(model::kSamplerNames,
                                          [&](const auto& entry) { return entry.name == word; });
  if (found == model::kSamplerNames.end()) {
    user_error("sampler: there is no '{}'; use chatrwkv, rwkv_lm, rwkv_v1 or typical",
               printable(word, 40));
  }
  sampling.sampler = found->value;
}

}  // namespace

void change_setting(model::GenerateOptions& options, std::string_view name,
                    std::string_view value) {
  std::string field(name);
  std::ranges::replace(field, '-', '_');
  model::GenerateOptions changed = options;
  Setter setter{.name = field, .value = value};
  visit(changed, setter);
  if (field == "sampler") {
    set_sampler(changed.sampling, value);
  } else if (field == "seed") {
    changed.seed = parse<uint64_t>(field, value);
  } else if (!setter.found) {
    user_error("there is no setting '{}'; /set alone lists them all", printable(name, 40));
  }
  model::check(changed.sampling, "");
  options = changed;
}

std::string list_settings(const model::GenerateOptions& options) {
  std::string text;
  const auto line = [&text](const char* name, auto value, const model::FieldInfo& info) {
    text += fmt::format("  {:<20} {:<8} {}\n", name, value, info.help);
  };
  visit(options, line);
  text += fmt::format("  {:<20} {:<8} Order of the filters\n", "sampler",
                      name_of(model::kSamplerNames, options.sampling.sampler));
  text += fmt::format("  {:<20} {:<8} Start of the random numbers\n", "seed", options.seed);
  return text;
}

}  // namespace rwkv::apps
