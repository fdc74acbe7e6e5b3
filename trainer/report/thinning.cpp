#include "trainer/report/thinning.h"

#include <algorithm>
#include <numeric>

namespace rwkv::report {
namespace {

void append_new(std::vector<Point>& points, const Point& point) {
  if (points.empty() || points.back() != point) points.push_back(point);
}

/// Calls `of(begin, end)` with the window around every value: `reach` to both sides. At the start,
/// where curves are steep, it shrinks on both sides; at the end, where they are flat, on one.
template <typename Of>
std::vector<double> over_windows(const std::vector<double>& values, size_t reach, const Of& of) {
  std::vector<double> out;
  out.reserve(values.size());
  for (size_t i = 0; i < values.size(); ++i) {
    const size_t half = std::min(reach, i);
    const auto begin = values.begin() + static_cast<int64_t>(i - half);
    const auto end = values.begin() + static_cast<int64_t>(std::min(i + half + 1, values.size()));
    out.push_back(of(begin, end));
  }
  return out;
}

}  // namespace

MinMaxThinner::MinMaxThinner(size_t max_bins) : max_bins_(std::max<size_t>(max_bins, 2)) {}

void MinMaxThinner::add(int64_t step, double value) {
  const Point point{step, value};
  if (bins_.empty()) first_ = point;
  last_ = point;
  const int64_t index = step / width_;
  if (bins_.empty() || bins_.back().index != index) {
    bins_.push_back({index, point, point, step, step, value, 1});
    while (bins_.size() > max_bins_) halve();
    return;
  }
  Bin& bin = bins_.back();
  if (value < bin.least.value) bin.least = point;
  if (value > bin.greatest.value) bin.greatest = point;
  bin.last_step = step;
  bin.sum += value;
  ++bin.count;
}

void MinMaxThinner::halve() {
  width_ *= 2;
  size_t kept = 0;
  for (size_t i = 0; i < bins_.size(); ++i) {
    Bin bin = bins_[i];
    bin.index /= 2;
    if (kept == 0 || bins_[kept - 1].index != bin.index) {
      bins_[kept++] = bin;
      continue;
    }
    Bin& into = bins_[kept - 1];
    if (bin.least.value < into.least.value) into.least = bin.least;
    if (bin.greatest.value > into.greatest.value) into.greatest = bin.greatest;
    into.last_step = bin.last_step;
    into.sum += bin.sum;
    into.count += bin.count;
  }
  bins_.resize(kept);
}

std::vector<Point> MinMaxThinner::points() const {
  std::vector<Point> points;
  if (bins_.empty()) return points;
  points.push_back(first_);
  for (const Bin& bin : bins_) {
    const bool falls = bin.greatest.step < bin.least.step;
    append_new(points, falls ? bin.greatest : bin.least);
    append_new(points, falls ? bin.least : bin.greatest);
  }
  append_new(points, last_);
  return points;
}

std::vector<Point> MinMaxThinner::smoothed() const {
  using Iterator = std::vector<double>::const_iterator;
  std::vector<double> values;
  for (const Bin& bin : bins_) values.push_back(bin.sum / static_cast<double>(bin.count));
  const size_t reach = values.size() / 100;
  const auto median = [](Iterator begin, Iterator end) {
    std::vector<double> window(begin, end);
    const auto middle = window.begin() + static_cast<int64_t>(window.size() / 2);
    std::nth_element(window.begin(), middle, window.end());
    return *middle;
  };
  const auto mean = [](Iterator begin, Iterator end) {
    return std::accumulate(begin, end, 0.0) / static_cast<double>(end - begin);
  };
  values = over_windows(over_windows(values, reach, median), reach, mean);
  std::vector<Point> points;
  for (size_t i = 0; i < bins_.size(); ++i) {
    points.push_back({std::midpoint(bins_[i].first_step, bins_[i].last_step), values[i]});
  }
  return points;
}

}  // namespace rwkv::report
