#include "trainer/config_fields.h"

#include <fmt/format.h>

#include <initializer_list>
#include <limits>
#include <string_view>

#include "trainer/config.h"
#include "trainer/yaml_values.h"

namespace rwkv::trainer {
namespace {

std::string count_text(int64_t value) {
  return value == kMaxCount ? "1e15" : value == -kMaxCount ? "-1e15" : fmt::format("{}", value);
}

std::string range_text(int64_t low, int64_t high) {
  if (high == kMaxCount && low >= -1) return fmt::format(">= {}", low);
  if (high >= int64_t{1} << 62) return fmt::format(">= {}", low);
  return fmt::format("{}..{}", count_text(low), count_text(high));
}

std::string pair_text(const std::array<double, 2>& pair) {
  return fmt::format("[{}, {}]", format_real(pair[0]), format_real(pair[1]));
}

std::string curve_text(const LrCurve& curve) {
  const std::string_view name = name_of(kCurveNames, curve.kind);
  if (curve.kind == CurveKind::kConstant) {
    return fmt::format("{{{}: {}}}", name, format_real(curve.start));
  }
  if (curve.kind == CurveKind::kHyperbola) {
    return fmt::format("{{{}: {{lr: {}, rate: {}}}}}", name, format_real(curve.start),
                       format_real(curve.rate));
  }
  return fmt::format("{{{}: {}}}", name, pair_text({curve.start, curve.end}));
}

/// Visitor that writes every field as text.
class FieldLister {
 public:
  FieldLister(std::string prefix, std::vector<FieldText>& out)
      : prefix_(std::move(prefix)), out_(out) {}

  void integer(std::string_view key, int64_t value, int64_t low, int64_t high,
               std::string_view help) {
    add(key, fmt::format("{}", value), range_text(low, high), help);
  }
  void count(std::string_view key, int64_t value, int64_t low, int64_t high,
             std::string_view help) {
    integer(key, value, low, high, help);
  }
  void real(std::string_view key, double value, double low, double high, std::string_view help) {
    add(key, format_real(value), real_range(low, high), help);
  }
  void real_or_word(std::string_view key, double value, bool is_word, std::string_view word,
                    double low, double high, std::string_view help) {
    add(key, is_word ? std::string(word) : format_real(value),
        fmt::format("{}, {}", real_range(low, high), word), help);
  }
  void flag(std::string_view key, bool value, std::string_view help) {
    add(key, value ? "true" : "false", "true, false", help);
  }
  void text(std::string_view key, const std::string& value, std::string_view help) {
    add(key, quote(value), "text", help);
  }
  void texts(std::string_view key, const std::vector<std::string>& value, std::string_view help) {
    std::vector<std::string> items;
    for (const std::string& item : value) items.push_back(quote(item));
    add(key, fmt::format("[{}]", fmt::join(items, ", ")), "list", help);
  }
  void path(std::string_view key, const std::string& value, std::string_view help) {
    add(key, quote(value), "path", help);
  }
  void word(std::string_view key, const std::string& value,
            std::initializer_list<std::string_view> choices, std::string_view help) {
    std::vector<std::string_view> shown(choices);
    std::erase(shown, "");
    add(key, value.empty() ? "\"\"" : value, fmt::format("{}", fmt::join(shown, ", ")), help);
  }
  template <typename E, size_t N>
  void choice(std::string_view key, E value, const std::array<Named<E>, N>& names,
              std::string_view help) {
    std::vector<std::string_view> words;
    for (const Named<E>& entry : names) words.push_back(entry.name);
    add(key, std::string(name_of(names, value)), fmt::format("{}", fmt::join(words, ", ")), help);
  }
  void betas(std::string_view key, const std::array<double, 2>& value, std::string_view help) {
    add(key, pair_text(value), "each 0 to below 1", help);
  }
  void optional_betas(std::string_view key, const std::optional<std::array<double, 2>>& value,
                      std::string_view help) {
    add(key, value ? pair_text(*value) : "null", "each 0 to below 1, null", help);
  }
  void optional_integer(std::string_view key, const std::optional<int64_t>& value, int64_t low,
                        int64_t high, std::string_view help) {
    add(key, value ? fmt::format("{}", *value) : "null", range_text(low, high) + ", null", help);
  }
  void optional_real(std::string_view key, const std::optional<double>& value, double low,
                     double high, std::string_view help) {
    add(key, value ? format_real(*value) : "null", real_range(low, high) + ", null", help);
  }
  void curve(std::string_view key, const LrCurve& value, std::string_view help) {
    add(key, curve_text(value), "curve", help);
  }
  void segments(std::string_view key, const std::vector<Segment>& value, std::string_view help) {
    std::vector<std::string> items;
    for (const Segment& segment : value) items.push_back(segment_text(segment));
    add(key, fmt::format("[{}]", fmt::join(items, ", ")), "list", help);
  }
  template <typename T>
  void section(std::string_view key, const T& value) {
    FieldLister lister(full(key), out_);
    T::visit(value, lister);
  }

 private:
  static std::string real_range(double low, double high) {
    return fmt::format("{}..{}", low, high);
  }

  static std::string segment_text(const Segment& segment) {
    std::vector<FieldText> fields;
    FieldLister lister("", fields);
    Segment::visit(segment, lister);
    std::vector<std::string> parts;
    for (const FieldText& field : fields) {
      if (field.value != "null") parts.push_back(field.key + ": " + field.value);
    }
    return fmt::format("{{{}}}", fmt::join(parts, ", "));
  }

  [[nodiscard]] std::string full(std::string_view key) const {
    return prefix_.empty() ? std::string(key) : fmt::format("{}.{}", prefix_, key);
  }
  void add(std::string_view key, std::string value, std::string range, std::string_view help) {
    out_.push_back({full(key), std::move(value), std::move(range), std::string(help)});
  }

  std::string prefix_;
  std::vector<FieldText>& out_;
};

}  // namespace

std::vector<FieldText> list_fields(const RunConfig& config) {
  std::vector<FieldText> fields;
  FieldLister lister("", fields);
  RunConfig::visit(config, lister);
  return fields;
}

const std::vector<FieldText>& default_fields() {
  static const std::vector<FieldText> fields = list_fields(RunConfig{});
  return fields;
}

}  // namespace rwkv::trainer
