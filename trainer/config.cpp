#include "trainer/config.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <utility>

#include "data/base/error.h"
#include "data/base/mapped_file.h"
#include "trainer/config_check.h"
#include "trainer/config_fields.h"
#include "trainer/config_reader.h"
#include "trainer/yaml_tree.h"

namespace rwkv::trainer {
namespace {

constexpr size_t kMaxKeyParts = 8;

/// Whether `key` is words joined by dots, few enough to be a path in a configuration.
bool is_key_path(std::string_view key) {
  const auto dots = std::count(key.begin(), key.end(), '.');
  return !key.empty() && static_cast<size_t>(dots) < kMaxKeyParts && key.front() != '.' &&
         key.back() != '.' && key.find("..") == std::string_view::npos;
}

/// Applies the `number`-th --set (from 1), `section.key=value`, to the tree.
void apply_override(const std::string& text, int number, YamlNode& root,
                    std::set<std::string>& seen, Problems& problems) {
  const Place place{number, 1};
  const size_t equals = text.find('=');
  const std::string key = text.substr(0, equals);
  if (equals == std::string::npos || !is_key_path(key)) {
    return problems.add(
        place, fmt::format("'{}' is not of the form section.key=value", printable(text, 80)));
  }
  if (!seen.insert(key).second) {
    return problems.add(place, fmt::format("{}: given twice; keep one", printable(key, 80)));
  }
  const std::string value = text.substr(equals + 1);
  const size_t problems_before = problems.size();
  std::optional<YamlNode> node = parse_strict_yaml(value, number, problems);
  if (!node || problems.size() > problems_before) return;
  if (value.empty()) node->kind = YamlNode::Kind::kScalar;  // `--set data.vocab_file=`
  node->place = place;
  set_at_path(root, key, std::move(*node), problems);
}

/// Pads `text` to `width` columns.
std::string padded(std::string_view text, size_t width) {
  return fmt::format("{:<{}}", text, width);
}

}  // namespace

RunConfig parse_run_config(std::string_view text, const std::string& name,
                           const std::vector<std::string>& overrides) {
  Problems problems(printable(name));
  std::optional<YamlNode> root = parse_strict_yaml(text, 0, problems);
  const bool readable = root.has_value();
  if (!root || root->kind == YamlNode::Kind::kNull) {
    root = YamlNode{};
    root->kind = YamlNode::Kind::kMap;
  }
  if (root->kind != YamlNode::Kind::kMap) {
    problems.add(root->place, "expected sections such as 'train:' with keys below them");
    problems.throw_if_any();
  }
  std::set<std::string> seen;
  for (size_t i = 0; i < overrides.size(); ++i) {
    apply_override(overrides[i], static_cast<int>(i) + 1, *root, seen, problems);
  }
  // Without a tree, missing keys say nothing.
  if (!readable) problems.throw_if_any();

  ReadContext context{problems, {}, {}, {}};
  for (const FieldText& field : default_fields()) context.all_keys.push_back(field.key);
  RunConfig config;
  SectionReader reader(*root, "", context);
  RunConfig::visit(config, reader);
  reader.report_unknown_keys();
  for (const auto& [key, place] : context.places) {
    if (key.starts_with("model.")) config.named_model_keys.push_back(key);
  }
  check_across_fields(config, context);
  problems.throw_if_any();
  return config;
}

RunConfig load_run_config(const std::filesystem::path& file,
                          const std::vector<std::string>& overrides) {
  const MappedFile mapped(file);
  const auto bytes = mapped.bytes();
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  return parse_run_config(text, file.string(), overrides);
}

std::string dump_yaml(const RunConfig& config) {
  std::string text;
  std::vector<std::string> open;  // the sections that the last line stands in
  for (const FieldText& field : list_fields(config)) {
    std::string_view rest = field.key;
    size_t depth = 0;
    for (size_t dot = rest.find('.'); dot != std::string_view::npos; dot = rest.find('.')) {
      const std::string section(rest.substr(0, dot));
      if (depth >= open.size() || open[depth] != section) {
        open.resize(depth);
        open.push_back(section);
        text += fmt::format("{}{}:\n", std::string(2 * depth, ' '), section);
      }
      rest.remove_prefix(dot + 1);
      ++depth;
    }
    open.resize(depth);
    text += fmt::format("{}{}: {}\n", std::string(2 * depth, ' '), rest, field.value);
  }
  return text;
}

std::string describe_keys() {
  const std::vector<FieldText>& fields = default_fields();
  size_t key_width = 3;
  size_t value_width = 7;
  for (const FieldText& field : fields) {
    key_width = std::max(key_width, field.key.size());
    value_width = std::max(value_width, field.value.size());
  }
  std::string text;
  for (const FieldText& field : fields) {
    text += fmt::format("{}  {}  {} ({})\n", padded(field.key, key_width),
                        padded(field.value, value_width), field.help, field.range);
  }
  return text;
}

std::string keys_as_markdown() {
  std::string text = "| key | default | range | meaning |\n| --- | --- | --- | --- |\n";
  for (const FieldText& field : default_fields()) {
    std::string help = field.help;
    for (size_t bar = help.find('|'); bar != std::string::npos; bar = help.find('|', bar + 2)) {
      help.insert(bar, "\\");
    }
    text += fmt::format("| `{}` | `{}` | {} | {} |\n", field.key, field.value, field.range, help);
  }
  return text;
}

std::vector<Difference> differences(const RunConfig& a, const RunConfig& b) {
  const std::vector<FieldText> before = list_fields(a);
  const std::vector<FieldText> after = list_fields(b);
  std::vector<Difference> result;
  for (size_t i = 0; i < before.size(); ++i) {
    if (before[i].value != after[i].value) {
      result.push_back({before[i].key, before[i].value, after[i].value});
    }
  }
  return result;
}

}  // namespace rwkv::trainer
