#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace rwkv::trainer {

/// Where a value stands: source 0 is the file, k > 0 the k-th --set; line 0 means unknown.
struct Place {
  int source = 0;
  int line = 0;
};

/// The mistakes found so far; they are reported together.
class Problems {
 public:
  explicit Problems(std::string file_name) : file_name_(std::move(file_name)) {}

  void add(Place place, std::string message);
  [[nodiscard]] size_t size() const { return entries_.size(); }
  /// Throws UserError with all messages in the order of the file; does nothing when there are none.
  void throw_if_any() const;

 private:
  struct Entry {
    Place place;
    std::string message;
  };
  std::string file_name_;
  std::vector<Entry> entries_;
};

/// A YAML value, freed of everything that the strict subset does not allow.
struct YamlNode {
  enum class Kind { kNull, kScalar, kSequence, kMap };

  Kind kind = Kind::kNull;
  std::string text;     // of a scalar
  bool quoted = false;  // of a scalar
  Place place;
  std::vector<YamlNode> items;    // of a sequence or a map
  std::vector<std::string> keys;  // of a map, one per item
  std::vector<Place> key_places;

  /// The value of `key` in a map, or nothing.
  [[nodiscard]] const YamlNode* find(std::string_view key) const;
  [[nodiscard]] YamlNode* find(std::string_view key);
};

/// Reads one document of a strict subset of YAML: valid UTF-8 without NUL, at most 1 MB, 10,000
/// values and 64 levels; no anchors, aliases, tags or merge keys; keys are plain words and unique.
/// What breaks a rule is added to `problems`; the result is empty when no tree could be built.
std::optional<YamlNode> parse_strict_yaml(std::string_view text, int source, Problems& problems);

/// Puts `value` at `key` (a dotted path) of `root`, replacing what is there and adding sections on
/// the way.
void set_at_path(YamlNode& root, std::string_view key, YamlNode value, Problems& problems);

}  // namespace rwkv::trainer
