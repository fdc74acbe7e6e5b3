#include "data/qa_mask.h"

#include <fmt/format.h>

#include <algorithm>
#include <stdexcept>

namespace rwkv::data {

bool qa_mask(std::span<const int64_t> window, std::span<float> mask, const QaPattern& pattern) {
  if (window.size() != mask.size() + 1) {
    throw std::logic_error(
        fmt::format("qa_mask: {} tokens and a mask of {}", window.size(), mask.size()));
  }
  bool inside = false;
  bool any = false;
  for (size_t i = 0; i < mask.size(); ++i) {
    if (i >= 3 && std::ranges::equal(window.subspan(i - 3, 4), pattern.answer)) inside = true;
    if (window[i] == pattern.end_of_text) inside = false;
    mask[i] = inside ? 1.0F : 0.0F;
    any = any || inside;
  }
  return any;
}

}  // namespace rwkv::data
