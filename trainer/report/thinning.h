#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace rwkv::report {

/// A value of a metric at a step.
struct Point {
  int64_t step = 0;
  double value = 0;

  bool operator==(const Point&) const = default;
};

/// Thins a curve of any length while it is read, in fixed memory. Steps fall into bins of equal
/// width, which doubles when there are too many bins; of every bin the least and the greatest value
/// stay, so a spike of one step stays visible at its true height. A curve that fits is kept whole.
class MinMaxThinner {
 public:
  /// Keeps at most 2 * max_bins + 2 points, in at least max_bins / 2 bins once thinning began on a
  /// curve without holes.
  explicit MinMaxThinner(size_t max_bins);

  /// Adds a finite value; steps must not go back.
  void add(int64_t step, double value);

  /// What is left, by ascending step: least and greatest value of every bin, the first point and
  /// the last.
  [[nodiscard]] std::vector<Point> points() const;

  /// The curve without its noise: of the means of all bins the running median over about a fiftieth
  /// of them, and of that the running mean. Windows are centred, so nothing lags; at both ends they
  /// shrink.
  [[nodiscard]] std::vector<Point> smoothed() const;

 private:
  struct Bin {
    int64_t index = 0;  // step / width
    Point least;
    Point greatest;
    int64_t first_step = 0;
    int64_t last_step = 0;
    double sum = 0;
    int64_t count = 0;
  };
  void halve();

  size_t max_bins_;
  int64_t width_ = 1;
  std::vector<Bin> bins_;
  Point first_;
  Point last_;
};

/// Keeps some of many items, evenly spread over all that came, the first among them; the newest is
/// kept beside them.
template <typename T>
class EvenThinner {
 public:
  /// Keeps at most `max_items` (at least 2) and the newest.
  explicit EvenThinner(size_t max_items) : max_items_(max_items) {}

  void add(T item) {
    newest_is_kept_ = seen_ % stride_ == 0;
    if (newest_is_kept_) {
      kept_.push_back(item);
      if (kept_.size() > max_items_) halve();
    }
    newest_ = std::move(item);
    newest_is_kept_ = newest_is_kept_ && seen_ % stride_ == 0;
    ++seen_;
  }

  [[nodiscard]] std::vector<T> items() const {
    std::vector<T> result = kept_;
    if (seen_ > 0 && !newest_is_kept_) result.push_back(newest_);
    return result;
  }
  [[nodiscard]] size_t seen() const { return seen_; }

 private:
  void halve() {
    for (size_t i = 0; 2 * i < kept_.size(); ++i) kept_[i] = std::move(kept_[2 * i]);
    kept_.resize((kept_.size() + 1) / 2);
    stride_ *= 2;
  }

  size_t max_items_;
  size_t stride_ = 1;
  size_t seen_ = 0;
  std::vector<T> kept_;
  T newest_{};
  bool newest_is_kept_ = false;
};

}  // namespace rwkv::report
