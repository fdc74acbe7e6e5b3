#include "trainer/report/thinning.h"

#include <algorithm>

namespace rwkv::report {
namespace {

void append_new(std::vector<Point>& points, const Point& point) {
  if (points.empty() || points.back() != point) points.push_back(point);
}

}  // namespace

MinMaxThinner::MinMaxThinner(size_t max_bins) : max_bins_(std::max<size_t>(max_bins, 2)) {}

void MinMaxThinner::add(int64_t step, double value) {
  const Point point{step, value};
  if (bins_.empty()) first_ = point;
  last_ = point;
  const int64_t index = step / width_;
  if (bins_.empty() || bins_.back().index != index) {
    bins_.push_back({index, point, point});
    while (bins_.size() > max_bins_) halve();
    return;
  }
  Bin& bin = bins_.back();
  if (value < bin.least.value) bin.least = point;
  if (value > bin.greatest.value) bin.greatest = point;
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

}  // namespace rwkv::report
