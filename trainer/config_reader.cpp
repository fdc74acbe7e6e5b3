#include "trainer/config_reader.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "data/base/error.h"
#include "trainer/yaml_values.h"

namespace rwkv::trainer {
namespace {

constexpr size_t kLongestKey = 64;   // longer ones are no misspelling
constexpr size_t kSuggestions = 50;  // as many as are shown

/// Levenshtein distance in which swapping two neighbours counts once.
size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<size_t> before(b.size() + 1);
  std::vector<size_t> last(b.size() + 1);
  std::vector<size_t> row(b.size() + 1);
  std::iota(last.begin(), last.end(), size_t{0});
  for (size_t i = 1; i <= a.size(); ++i) {
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t replace = last[j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1);
      row[j] = std::min({replace, last[j] + 1, row[j - 1] + 1});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
        row[j] = std::min(row[j], before[j - 2] + 1);
      }
    }
    std::swap(before, last);
    std::swap(last, row);
  }
  return last[b.size()];
}

std::string_view last_part(std::string_view key) { return key.substr(key.rfind('.') + 1); }

}  // namespace

std::string nearest_word(std::string_view typed, const std::vector<std::string_view>& words) {
  if (typed.empty() || typed.size() > kLongestKey) return "";
  std::string_view best;
  size_t best_distance = std::max<size_t>(2, typed.size() / 3) + 1;
  for (const std::string_view word : words) {
    const size_t distance = edit_distance(typed, word);
    if (distance < best_distance && distance < word.size()) {
      best = word;
      best_distance = distance;
    }
  }
  return std::string(best);
}

std::string SectionReader::full(std::string_view key) const {
  return prefix_.empty() ? std::string(key) : fmt::format("{}.{}", prefix_, key);
}

const YamlNode* SectionReader::take(std::string_view key) {
  known_.emplace_back(key);
  const YamlNode* node = node_.find(key);
  if (node != nullptr) context_.places[full(key)] = node->place;
  return node;
}

void SectionReader::fail(std::string_view key, const YamlNode& node, std::string_view message) {
  context_.failed.insert(full(key));
  context_.problems.add(node.place, fmt::format("{}: {}", full(key), message));
}

bool SectionReader::expect_map(std::string_view key, const YamlNode& node) {
  if (node.kind == YamlNode::Kind::kMap) return true;
  fail(key, node,
       node.kind == YamlNode::Kind::kNull
           ? "the section is empty; indent its keys below it, or remove it"
           : "expected a section with keys of its own");
  return false;
}

bool SectionReader::in_range(std::string_view key, const YamlNode& node, int64_t value, int64_t low,
                             int64_t high) {
  if (value >= low && value <= high) return true;
  fail(key, node, fmt::format("{} is outside {}..{}", value, low, high));
  return false;
}

bool SectionReader::in_range(std::string_view key, const YamlNode& node, double value, double low,
                             double high) {
  if (value >= low && value <= high) return true;
  fail(key, node, fmt::format("{} is outside {}..{}", value, low, high));
  return false;
}

void SectionReader::take_integer(std::string_view key, int64_t& value, int64_t low, int64_t high,
                                 bool allow_exponent) {
  const YamlNode* node = take(key);
  if (node == nullptr) return;
  const Parsed<int64_t> parsed = parse_integer(*node, allow_exponent);
  if (!parsed.value) return fail(key, *node, parsed.error);
  if (in_range(key, *node, *parsed.value, low, high)) value = *parsed.value;
}

void SectionReader::integer(std::string_view key, int64_t& value, int64_t low, int64_t high,
                            std::string_view /*help*/) {
  take_integer(key, value, low, high, false);
}

void SectionReader::count(std::string_view key, int64_t& value, int64_t low, int64_t high,
                          std::string_view /*help*/) {
  take_integer(key, value, low, high, true);
}

void SectionReader::real(std::string_view key, double& value, double low, double high,
                         std::string_view /*help*/) {
  const YamlNode* node = take(key);
  if (node == nullptr) return;
  const Parsed<double> parsed = parse_real(*node);
  if (!parsed.value) return fail(key, *node, parsed.error);
  if (in_range(key, *node, *parsed.value, low, high)) value = *parsed.value;
}

void SectionReader::real_or_word(std::string_view key, double& value, bool& is_word,
                                 std::string_view word, double low, double high,
                                 std::string_view /*help*/) {
  const YamlNode* node = take(key);
  if (node == nullptr) return;
  is_word = node->kind == YamlNode::Kind::kScalar && node->text == word;
  if (is_word) return;
  const Parsed<double> parsed = parse_real(*node);
  if (!parsed.value) return fail(key, *node, fmt::format("{}; or write {}", parsed.error, word));
  if (in_range(key, *node, *parsed.value, low, high)) value = *parsed.value;
}

void SectionReader::flag(std::string_view key, bool& value, std::string_view /*help*/) {
  const YamlNode* node = take(key);
  if (node == nullptr) return;
  const Parsed<bool> parsed = parse_bool(*node);
  if (!parsed.value) return fail(key, *node, parsed.error);
  value = *parsed.value;
}

void SectionReader::text(std::string_view key, std::string& value, std::string_view /*help*/) {
  const YamlNode* node = take(key);
  if (node == nullptr) return;
  Parsed<std::string> parsed = parse_text(*node);
  if (!parsed.value) return fail(key, *node, parsed.error);
  value = std::move(*parsed.value);
}

void SectionReader::texts(std::string_view key, std::vector<std::string>& value,
                          std::string_view /*help*/) {
  const YamlNode* node = take(key);
  if (node == nullptr) return;
  if (node->kind != YamlNode::Kind::kSequence) {
    return fail(key, *node, "expected a list, e.g. [emb.weight, blocks.0.*]");
  }
  std::vector<std::string> read;
  for (const YamlNode& item : node->items) {
    Parsed<std::string> parsed = parse_text(item);
    if (!parsed.value) return fail(key, item, parsed.error);
    read.push_back(std::move(*parsed.value));
  }
  value = std::move(read);
}

void SectionReader::path(std::string_view key, std::string& value, std::string_view /*help*/) {
  const YamlNode* node = take(key);
  if (node == nullptr) return;
  Parsed<std::string> parsed = parse_text(*node);
  if (!parsed.value) return fail(key, *node, parsed.error);
  const auto is_control = [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7F; };
  if (std::any_of(parsed.value->begin(), parsed.value->end(), is_control)) {
    return fail(key, *node, "a path with control characters; rename the file");
  }
  value = std::move(*parsed.value);
}

std::optional<size_t> SectionReader::choose(std::string_view key,
                                            const std::vector<std::string_view>& words) {
  const YamlNode* node = take(key);
  if (node == nullptr) return std::nullopt;
  const bool is_text = node->kind == YamlNode::Kind::kScalar;
  const auto found = std::find(words.begin(), words.end(), node->text);
  if (is_text && found != words.end()) return static_cast<size_t>(found - words.begin());
  std::vector<std::string_view> shown = words;
  std::erase(shown, "");
  const std::string typed = is_text ? fmt::format("\"{}\"", printable(node->text, 60)) : "this";
  const std::string nearest = is_text ? nearest_word(node->text, shown) : "";
  fail(key, *node,
       fmt::format("{} is none of {}{}", typed, fmt::join(shown, ", "),
                   nearest.empty() ? "" : fmt::format("; did you mean {}?", nearest)));
  return std::nullopt;
}

void SectionReader::word(std::string_view key, std::string& value,
                         std::initializer_list<std::string_view> choices,
                         std::string_view /*help*/) {
  const std::vector<std::string_view> words(choices);
  if (const auto index = choose(key, words)) value = std::string(words[*index]);
}

bool SectionReader::take_betas(std::string_view key, const YamlNode& node,
                               std::array<double, 2>& value) {
  const Parsed<std::array<double, 2>> parsed = parse_pair(node);
  if (!parsed.value) {
    fail(key, node, parsed.error);
    return false;
  }
  for (const double beta : *parsed.value) {
    if (beta >= 0.0 && beta < 1.0) continue;
    fail(key, node, fmt::format("{} is no beta; both are at least 0 and below 1", beta));
    return false;
  }
  value = *parsed.value;
  return true;
}

void SectionReader::betas(std::string_view key, std::array<double, 2>& value,
                          std::string_view /*help*/) {
  if (const YamlNode* node = take(key)) take_betas(key, *node, value);
}

void SectionReader::optional_betas(std::string_view key,
                                   std::optional<std::array<double, 2>>& value,
                                   std::string_view /*help*/) {
  const YamlNode* node = take(key);
  if (node == nullptr || node->kind == YamlNode::Kind::kNull) return;
  std::array<double, 2> pair{};
  if (take_betas(key, *node, pair)) value = pair;
}

void SectionReader::optional_integer(std::string_view key, std::optional<int64_t>& value,
                                     int64_t low, int64_t high, std::string_view /*help*/) {
  const YamlNode* node = take(key);
  if (node == nullptr || node->kind == YamlNode::Kind::kNull) return;
  const Parsed<int64_t> parsed = parse_integer(*node, false);
  if (!parsed.value) return fail(key, *node, parsed.error);
  if (in_range(key, *node, *parsed.value, low, high)) value = parsed.value;
}

void SectionReader::optional_real(std::string_view key, std::optional<double>& value, double low,
                                  double high, std::string_view /*help*/) {
  const YamlNode* node = take(key);
  if (node == nullptr || node->kind == YamlNode::Kind::kNull) return;
  const Parsed<double> parsed = parse_real(*node);
  if (!parsed.value) return fail(key, *node, parsed.error);
  if (in_range(key, *node, *parsed.value, low, high)) value = parsed.value;
}

void SectionReader::curve(std::string_view key, LrCurve& value, std::string_view /*help*/) {
  const YamlNode* node = take(key);
  if (node == nullptr) {
    return fail(key, node_, "missing; give the segment a curve, e.g. lr: {constant: 3e-4}");
  }
  if (node->kind != YamlNode::Kind::kMap || node->items.size() != 1) {
    return fail(key, *node,
                "expected one of {constant: a}, {linear: [a, b]}, {exp: [a, b]}, {cosine: [a, b]}, "
                "{hyperbola: {lr: a, rate: r}}");
  }
  read_curve(key, *node, value);
}

void SectionReader::read_curve(std::string_view key, const YamlNode& node, LrCurve& value) {
  const std::string name = fmt::format("{}.{}", key, printable(node.keys[0], 60));
  const YamlNode& argument = node.items[0];
  const auto kind = std::find_if(kCurveNames.begin(), kCurveNames.end(),
                                 [&](const auto& entry) { return entry.name == node.keys[0]; });
  if (kind == kCurveNames.end()) {
    return fail(name, node, "no such curve; use constant, linear, exp, cosine or hyperbola");
  }
  LrCurve read;
  read.kind = kind->value;
  if (read.kind == CurveKind::kHyperbola) {
    if (!expect_map(name, argument)) return;
    SectionReader reader(argument, full(name), context_);
    reader.real("lr", read.start, 0.0, 1.0, "");
    reader.real("rate", read.rate, 0.0, 1e6, "");
    reader.report_unknown_keys();
  } else if (read.kind == CurveKind::kConstant) {
    const Parsed<double> parsed = parse_real(argument);
    if (!parsed.value) return fail(name, argument, parsed.error);
    read.start = *parsed.value;
  } else {
    const Parsed<std::array<double, 2>> parsed = parse_pair(argument);
    if (!parsed.value) return fail(name, argument, parsed.error);
    read.start = (*parsed.value)[0];
    read.end = (*parsed.value)[1];
  }
  const bool divides = read.kind == CurveKind::kExp || read.kind == CurveKind::kCosine;
  if (!in_range(name, argument, read.start, 0.0, 1.0)) return;
  if (!in_range(name, argument, read.end, 0.0, 1.0)) return;
  if (divides && !(read.start > 0.0)) return fail(name, argument, "must start above 0");
  if (read.kind == CurveKind::kExp && !(read.end > 0.0)) {
    return fail(name, argument, "never reaches 0; use linear, or end above 0");
  }
  value = read;
}

void SectionReader::segments(std::string_view key, std::vector<Segment>& value,
                             std::string_view /*help*/) {
  const YamlNode* node = take(key);
  if (node == nullptr) return;
  if (node->kind != YamlNode::Kind::kSequence) {
    return fail(key, *node, "expected a list of segments {until: ..., lr: {...}}");
  }
  value.clear();
  for (size_t i = 0; i < node->items.size(); ++i) {
    const YamlNode& item = node->items[i];
    const std::string name = fmt::format("{}[{}]", key, i);
    context_.places[full(name)] = item.place;
    if (!expect_map(name, item)) continue;
    Segment segment;
    SectionReader reader(item, full(name), context_);
    Segment::visit(segment, reader);
    reader.report_unknown_keys();
    if (item.find("until") == nullptr) fail(name, item, "missing 'until', the end of the segment");
    value.push_back(segment);
  }
  if (value.size() != node->items.size()) context_.failed.insert(full(key));
}

void SectionReader::suggest(const std::string& unknown, Place place) {
  std::string hint;
  if (context_.failed.size() < kSuggestions) {
    const std::vector<std::string_view> here(known_.begin(), known_.end());
    std::string nearest = nearest_word(unknown, here);
    if (!nearest.empty()) context_.failed.insert(full(nearest));
    // A key of another section, spelled right but indented wrong or put under the wrong name.
    for (const std::string& key : context_.all_keys) {
      if (last_part(key) != unknown) continue;
      nearest = key;
      context_.failed.insert(key);
    }
    if (!nearest.empty()) hint = fmt::format("; did you mean {}?", nearest);
  }
  const std::string name = full(printable(unknown, 60));
  context_.failed.insert(name);
  context_.problems.add(place, fmt::format("{}: unknown key{}", name, hint));
}

void SectionReader::report_unknown_keys() {
  for (size_t i = 0; i < node_.keys.size(); ++i) {
    const std::string& key = node_.keys[i];
    if (std::find(known_.begin(), known_.end(), key) == known_.end()) {
      suggest(key, node_.key_places[i]);
    }
  }
}

}  // namespace rwkv::trainer
