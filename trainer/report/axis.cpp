#include "trainer/report/axis.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

namespace rwkv::report {
namespace {

/// `value` with at most `digits` digits, without trailing zeros: 1.5, 300, 3e-4.
std::string plain_number(double value, int digits) {
  std::string text = fmt::format("{:.{}g}", value, digits);
  const size_t exponent = text.find('e');
  if (exponent == std::string::npos) return text;
  const int power = std::stoi(text.substr(exponent + 1));
  return fmt::format("{}e{}", text.substr(0, exponent), power);
}

/// Round values of a logarithmic axis: the densest of some sets of leading digits that has no more
/// than `count` values.
std::vector<double> logarithmic_values(double low, double high, int count) {
  static const std::vector<std::vector<double>> kLeadingDigits = {
      {1, 1.5, 2, 3, 4, 5, 7}, {1, 2, 3, 5}, {1, 2, 5}, {1, 3}, {1}};
  const int first = static_cast<int>(std::floor(std::log10(low)));
  const int last = static_cast<int>(std::ceil(std::log10(high)));
  std::vector<double> values;
  for (const auto& digits : kLeadingDigits) {
    values.clear();
    for (int power = first; power <= last; ++power) {
      for (const double digit : digits) {
        const double value = digit * std::pow(10.0, power);
        if (value >= low * (1 - 1e-9) && value <= high * (1 + 1e-9)) values.push_back(value);
      }
    }
    if (static_cast<int>(values.size()) <= count) break;
  }
  // Many decades: every second one, every third one, ...
  const size_t stride = (values.size() + static_cast<size_t>(count) - 1) /
                        std::max<size_t>(1, static_cast<size_t>(count));
  std::vector<double> kept;
  for (size_t i = 0; i < values.size(); i += std::max<size_t>(1, stride)) kept.push_back(values[i]);
  return kept;
}

}  // namespace

std::string short_number(double value) {
  const double size = std::abs(value);
  static constexpr std::pair<double, const char*> kUnits[] = {
      {1e12, "T"}, {1e9, "B"}, {1e6, "M"}, {1e3, "k"}};
  if (size >= 1e15) return plain_number(value, 3);
  if (size < 9999.5) return plain_number(value, 4);
  for (const auto& [unit, name] : kUnits) {
    if (size >= unit * 0.9995) return plain_number(value / unit, 3) + name;
  }
  return plain_number(value, 4);
}

std::vector<double> round_values(double low, double high, int count) {
  if (!(high > low) || count < 1) return {low};
  const double raw = (high - low) / count;
  const double power = std::pow(10.0, std::floor(std::log10(raw)));
  const double leading = raw / power;
  const double step = power * (leading <= 1.0000001 ? 1 : leading <= 2 ? 2 : leading <= 5 ? 5 : 10);
  std::vector<double> values;
  const double slack = step * 1e-6;
  for (double i = std::ceil((low - slack) / step); i * step <= high + slack; ++i) {
    values.push_back(i == 0 ? 0.0 : i * step);
  }
  return values;
}

Axis Axis::linear(double low, double high) {
  if (!(high > low)) {
    const double margin = low == 0 ? 1 : std::abs(low) * 0.1;
    return {low - margin, low + margin, false};
  }
  return {low, high, false};
}

Axis Axis::logarithmic(double low, double high) {
  if (!(high > low * 1.02)) return {low / 1.1, low * 1.1, true};
  return {low, high, true};
}

double Axis::position(double value) const {
  if (!logarithmic_) return (value - low_) / (high_ - low_);
  return (std::log(value) - std::log(low_)) / (std::log(high_) - std::log(low_));
}

std::vector<Axis::Tick> Axis::ticks(int count) const {
  std::vector<double> values;
  if (logarithmic_) values = logarithmic_values(low_, high_, count);
  // Less than half a decade has few round values on a logarithmic axis.
  if (values.size() < 3) values = round_values(low_, high_, count);
  std::vector<Tick> ticks;
  for (const double value : values) ticks.push_back({position(value), short_number(value)});
  return ticks;
}

}  // namespace rwkv::report
