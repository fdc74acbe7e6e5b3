#include "trainer/yaml_values.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <system_error>

#include "data/base/checked.h"
#include "data/base/error.h"

namespace rwkv::trainer {
namespace {

bool is_digit(char c) { return c >= '0' && c <= '9'; }

std::string_view take_digits(std::string_view& text) {
  size_t length = 0;
  while (length < text.size() && is_digit(text[length])) ++length;
  const std::string_view digits = text.substr(0, length);
  text.remove_prefix(length);
  return digits;
}

bool take(std::string_view& text, std::string_view any_of) {
  if (text.empty() || any_of.find(text.front()) == std::string_view::npos) return false;
  text.remove_prefix(1);
  return true;
}

/// The parts of [-+]INT[.FRACTION][e[-+]EXPONENT].
struct Decimal {
  bool negative = false;
  std::string_view integer;
  std::string_view fraction;
  bool has_point = false;
  bool has_exponent = false;
  int exponent = 0;
};

std::optional<Decimal> split_decimal(std::string_view text) {
  Decimal number;
  number.negative = !text.empty() && text.front() == '-';
  take(text, "+-");
  number.integer = take_digits(text);
  number.has_point = take(text, ".");
  if (number.has_point) number.fraction = take_digits(text);
  if (number.integer.empty() && number.fraction.empty()) return std::nullopt;
  number.has_exponent = take(text, "eE");
  if (number.has_exponent) {
    const bool negative = !text.empty() && text.front() == '-';
    take(text, "+-");
    const std::string_view digits = take_digits(text);
    if (digits.empty() || digits.size() > 4) return std::nullopt;
    std::from_chars(digits.data(), digits.data() + digits.size(), number.exponent);
    if (negative) number.exponent = -number.exponent;
  }
  if (!text.empty()) return std::nullopt;
  return number;
}

/// 010 is 8 to some YAML readers and 10 to others.
bool has_leading_zero(const Decimal& number) {
  return number.integer.size() > 1 && number.integer.front() == '0';
}

/// The exact value, without a detour through floating point.
std::optional<int64_t> exact_integer(const Decimal& number) {
  std::string digits = std::string(number.integer) + std::string(number.fraction);
  int64_t exponent = number.exponent - static_cast<int64_t>(number.fraction.size());
  while (!digits.empty() && digits.back() == '0') {
    digits.pop_back();
    ++exponent;
  }
  if (digits.empty()) return 0;
  if (exponent < 0) return std::nullopt;
  std::optional<int64_t> value = 0;
  for (const char digit : digits) {
    value = checked_mul<int64_t>(*value, 10);
    if (value) value = checked_add<int64_t>(*value, number.negative ? '0' - digit : digit - '0');
    if (!value) return std::nullopt;
  }
  for (; exponent > 0; --exponent) {
    value = checked_mul<int64_t>(*value, 10);
    if (!value) return std::nullopt;
  }
  return value;
}

std::string describe(const YamlNode& node) {
  switch (node.kind) {
    case YamlNode::Kind::kNull:
      return "nothing";
    case YamlNode::Kind::kSequence:
      return "a list";
    case YamlNode::Kind::kMap:
      return "a section";
    case YamlNode::Kind::kScalar:
      break;
  }
  const std::string text = printable(node.text, 60);
  return node.quoted ? fmt::format("the quoted text \"{}\"", text) : text;
}

template <typename T>
Parsed<T> wrong(std::string_view expected, const YamlNode& node) {
  return {std::nullopt, fmt::format("expected {}, got {}", expected, describe(node))};
}

bool is_plain(const YamlNode& node) { return node.kind == YamlNode::Kind::kScalar && !node.quoted; }

}  // namespace

Parsed<int64_t> parse_integer(const YamlNode& node, bool allow_exponent) {
  const std::string_view expected =
      allow_exponent ? "an integer (15e9 will do)" : "a decimal integer";
  if (!is_plain(node)) return wrong<int64_t>(expected, node);
  const std::optional<Decimal> number = split_decimal(node.text);
  if (!number) return wrong<int64_t>(expected, node);
  if (has_leading_zero(*number)) {
    return {std::nullopt,
            fmt::format("{} has a leading zero; write it without", printable(node.text, 60))};
  }
  if (!allow_exponent && (number->has_point || number->has_exponent)) {
    return wrong<int64_t>(expected, node);
  }
  if (const std::optional<int64_t> value = exact_integer(*number)) return {value, ""};
  return {std::nullopt,
          fmt::format("{} is no integer that fits into 64 bits", printable(node.text, 60))};
}

Parsed<double> parse_real(const YamlNode& node) {
  if (!is_plain(node)) return wrong<double>("a number", node);
  const std::optional<Decimal> number = split_decimal(node.text);
  if (!number) return wrong<double>("a finite decimal number", node);
  if (has_leading_zero(*number)) {
    return {std::nullopt,
            fmt::format("{} has a leading zero; write it without", printable(node.text, 60))};
  }
  std::string_view text = node.text;
  if (text.front() == '+') text.remove_prefix(1);
  double value = 0.0;
  const auto result = std::from_chars(text.data(), text.data() + text.size(), value);
  if (result.ec != std::errc() || !std::isfinite(value)) {
    return {std::nullopt,
            fmt::format("{} is outside what a double holds", printable(node.text, 60))};
  }
  return {value, ""};
}

Parsed<bool> parse_bool(const YamlNode& node) {
  if (is_plain(node) && node.text == "true") return {true, ""};
  if (is_plain(node) && node.text == "false") return {false, ""};
  return wrong<bool>("true or false", node);
}

Parsed<std::string> parse_text(const YamlNode& node) {
  if (node.kind != YamlNode::Kind::kScalar) return wrong<std::string>("a text", node);
  if (node.text.find('\0') != std::string::npos) {
    return {std::nullopt, "the text holds a NUL character; remove it"};
  }
  return {node.text, ""};
}

Parsed<std::array<double, 2>> parse_pair(const YamlNode& node) {
  if (node.kind != YamlNode::Kind::kSequence || node.items.size() != 2) {
    return wrong<std::array<double, 2>>("a list of two numbers", node);
  }
  const Parsed<double> first = parse_real(node.items[0]);
  const Parsed<double> second = parse_real(node.items[1]);
  if (!first.value) return {std::nullopt, first.error};
  if (!second.value) return {std::nullopt, second.error};
  return {std::array{*first.value, *second.value}, ""};
}

std::string format_real(double value) { return fmt::format("{}", value); }

std::string quote(std::string_view text) {
  std::string result = "\"";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      result += '\\';
      result += c;
    } else if (c == '\n') {
      result += "\\n";
    } else if (byte < 0x20 || byte == 0x7F) {
      result += fmt::format("\\x{:02x}", byte);
    } else {
      result += c;
    }
  }
  return result + '"';
}

}  // namespace rwkv::trainer
