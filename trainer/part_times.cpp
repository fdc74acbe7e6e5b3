#include "trainer/part_times.h"

#include <algorithm>

namespace rwkv::trainer {

void PartTimes::reset(int64_t now_ns) {
  for (Part& part : parts_) part.forward_ns = part.backward_ns = part.products_ns = 0;
  last_ns_ = now_ns;
}

void PartTimes::update(int64_t now_ns) {
  Part& part = parts_[static_cast<size_t>(here_.part)];
  (here_.backward ? part.backward_ns : part.forward_ns) += now_ns - last_ns_;
  last_ns_ = now_ns;
}

int PartTimes::index_of(std::string_view part) {
  const auto found = std::find_if(parts_.begin(), parts_.end(),
                                  [&](const Part& other) { return other.name == part; });
  if (found != parts_.end()) return static_cast<int>(found - parts_.begin());
  parts_.push_back(Part{std::string(part)});
  return static_cast<int>(parts_.size()) - 1;
}

PartTimes::Place PartTimes::enter(std::string_view part, int64_t now_ns) {
  update(now_ns);
  const Place previous = here_;
  here_.part = index_of(part);
  return previous;
}

PartTimes::Place PartTimes::enter_backward(int64_t sequence, int64_t now_ns) {
  update(now_ns);
  const Place previous = here_;
  here_ = {0, true};
  if (sequence < 0) return previous;
  const auto s = static_cast<uint64_t>(sequence);
  auto interval =
      std::upper_bound(intervals_.begin(), intervals_.end(), s,
                       [](uint64_t value, const Interval& i) { return value < i.next; });
  while (interval != intervals_.end() && interval->first > s) ++interval;
  if (interval != intervals_.end()) here_.part = interval->part;
  return previous;
}

void PartTimes::leave(Place previous, int64_t now_ns) {
  update(now_ns);
  here_ = previous;
}

void PartTimes::remember_forward(int part, uint64_t first, uint64_t next) {
  if (first < next) intervals_.push_back({first, next, part});
}

}  // namespace rwkv::trainer
