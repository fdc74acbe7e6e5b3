#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "trainer/yaml_tree.h"

namespace rwkv::trainer {

/// A value, or why there is none ("expected ..., got ...").
template <typename T>
struct Parsed {
  std::optional<T> value;
  std::string error;
};

/// A decimal integer without leading zeros. With `allow_exponent` also 15e9 and 1.5e9, when the
/// number is exactly an integer.
Parsed<int64_t> parse_integer(const YamlNode& node, bool allow_exponent);

/// A finite decimal number.
Parsed<double> parse_real(const YamlNode& node);

/// `true` or `false`.
Parsed<bool> parse_bool(const YamlNode& node);

/// Any text; a plain number counts as its own text.
Parsed<std::string> parse_text(const YamlNode& node);

/// A list of two numbers.
Parsed<std::array<double, 2>> parse_pair(const YamlNode& node);

/// `value` so that parse_real gives the same bits back.
std::string format_real(double value);

/// `text` as a double-quoted YAML scalar.
std::string quote(std::string_view text);

}  // namespace rwkv::trainer
