#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "trainer/config_schedule.h"
#include "trainer/yaml_tree.h"

namespace rwkv::trainer {

/// What reading leaves behind for the checks across fields.
struct ReadContext {
  Problems& problems;
  std::vector<std::string> all_keys;    // for suggestions from other sections
  std::map<std::string, Place> places;  // of the keys that the file or --set names
  std::set<std::string> failed;         // keys whose value could not be taken
};

/// Visitor that fills a struct from one section of the tree. Keys that are missing keep their
/// defaults; a value of the wrong type or out of range is a problem and keeps the default too.
/// `node` must be a map.
class SectionReader {
 public:
  SectionReader(const YamlNode& node, std::string prefix, ReadContext& context)
      : node_(node), prefix_(std::move(prefix)), context_(context) {}

  void integer(std::string_view key, int64_t& value, int64_t low, int64_t high,
               std::string_view help);
  void count(std::string_view key, int64_t& value, int64_t low, int64_t high,
             std::string_view help);
  void real(std::string_view key, double& value, double low, double high, std::string_view help);
  void real_or_word(std::string_view key, double& value, bool& is_word, std::string_view word,
                    double low, double high, std::string_view help);
  void flag(std::string_view key, bool& value, std::string_view help);
  void text(std::string_view key, std::string& value, std::string_view help);
  void texts(std::string_view key, std::vector<std::string>& value, std::string_view help);
  void path(std::string_view key, std::string& value, std::string_view help);
  void word(std::string_view key, std::string& value,
            std::initializer_list<std::string_view> choices, std::string_view help);
  void betas(std::string_view key, std::array<double, 2>& value, std::string_view help);
  void optional_betas(std::string_view key, std::optional<std::array<double, 2>>& value,
                      std::string_view help);
  void optional_integer(std::string_view key, std::optional<int64_t>& value, int64_t low,
                        int64_t high, std::string_view help);
  void optional_real(std::string_view key, std::optional<double>& value, double low, double high,
                     std::string_view help);
  void curve(std::string_view key, LrCurve& value, std::string_view help);
  void segments(std::string_view key, std::vector<Segment>& value, std::string_view help);

  template <typename E, size_t N>
  void choice(std::string_view key, E& value, const std::array<Named<E>, N>& names,
              std::string_view /*help*/) {
    std::vector<std::string_view> words;
    for (const Named<E>& entry : names) words.push_back(entry.name);
    if (const auto index = choose(key, words)) value = names[*index].value;
  }

  template <typename T>
  void section(std::string_view key, T& value) {
    const YamlNode* node = take(key);
    if (node == nullptr || !expect_map(key, *node)) return;
    SectionReader reader(*node, full(key), context_);
    T::visit(value, reader);
    reader.report_unknown_keys();
  }

  /// To be called after the last field.
  void report_unknown_keys();

 private:
  [[nodiscard]] std::string full(std::string_view key) const;
  const YamlNode* take(std::string_view key);
  void fail(std::string_view key, const YamlNode& node, std::string_view message);
  bool expect_map(std::string_view key, const YamlNode& node);
  std::optional<size_t> choose(std::string_view key, const std::vector<std::string_view>& words);
  bool in_range(std::string_view key, const YamlNode& node, int64_t value, int64_t low,
                int64_t high);
  bool in_range(std::string_view key, const YamlNode& node, double value, double low, double high);
  void take_integer(std::string_view key, int64_t& value, int64_t low, int64_t high,
                    bool allow_exponent);
  bool take_betas(std::string_view key, const YamlNode& node, std::array<double, 2>& value);
  void read_curve(std::string_view key, const YamlNode& node, LrCurve& value);
  void suggest(const std::string& unknown, Place place);

  const YamlNode& node_;
  std::string prefix_;
  ReadContext& context_;
  std::vector<std::string> known_;  // the keys of this section, as visited
};

/// The word of `words` that is nearest to `typed` and plausibly meant; empty when none is.
std::string nearest_word(std::string_view typed, const std::vector<std::string_view>& words);

}  // namespace rwkv::trainer
