#pragma once

#include <string>
#include <vector>

namespace rwkv::report {

/// A number for people: at most four digits, large ones with k, M, B or T, small ones with an
/// exponent, e.g. "0", "1400", "12.5k", "2.87M", "0.0003", "3e-5".
std::string short_number(double value);

/// One axis: maps values to 0..1, and has ticks at round values.
class Axis {
 public:
  struct Tick {
    double position = 0;  // 0..1
    std::string label;
  };

  /// Linear over at least [low, high]; a span of no width is widened.
  static Axis linear(double low, double high);
  /// Logarithmic over at least [low, high]; both positive.
  static Axis logarithmic(double low, double high);

  [[nodiscard]] double position(double value) const;
  /// About `count` ticks or fewer at round values, ascending, all inside.
  [[nodiscard]] std::vector<Tick> ticks(int count) const;
  [[nodiscard]] double low() const { return low_; }
  [[nodiscard]] double high() const { return high_; }
  [[nodiscard]] bool is_logarithmic() const { return logarithmic_; }

 private:
  Axis(double low, double high, bool logarithmic)
      : low_(low), high_(high), logarithmic_(logarithmic) {}

  double low_;
  double high_;
  bool logarithmic_;
};

/// Multiples of 1, 2 or 5 times a power of ten in [low, high], at most `count` + 1.
std::vector<double> round_values(double low, double high, int count);

}  // namespace rwkv::report
