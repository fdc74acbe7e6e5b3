#include "model/sampling.h"

#include <torch/torch.h>

#include <cmath>

#include "data/base/error.h"

namespace rwkv::model {

void check(const SamplingConfig& config, const char* where) {
  if (!(config.temperature >= 0) || !std::isfinite(config.temperature)) {
    user_error("{}temperature: {} is out of range; use 0 (greedy) or a positive number", where,
               config.temperature);
  }
  if (!(config.top_p >= 0 && config.top_p <= 1)) {
    user_error("{}top_p: {} is out of range; use a number from 0 to 1", where, config.top_p);
  }
}

at::Tensor next_token_probabilities(const at::Tensor& logits, const SamplingConfig& config) {
  TORCH_CHECK(logits.dim() == 1 && logits.numel() > 0, "logits must be [V], got ", logits.sizes());
  const at::Tensor logits32 = logits.to(at::kFloat);
  if (at::isnan(logits32).any().item<bool>() || !(logits32.max().item<float>() > -INFINITY)) {
    user_error("the model's logits are not finite; the weights are damaged or training diverged");
  }
  at::Tensor p = at::softmax(logits32, 0);
  const bool greedy = config.temperature == 0;
  const double top_p = greedy ? 0.0 : config.top_p;
  if (top_p < 1) {
    const at::Tensor sorted = std::get<0>(p.sort(/*dim=*/0, /*descending=*/true));
    const at::Tensor reached = sorted.cumsum(0) >= top_p;
    if (reached.any().item<bool>()) {
      const auto last = reached.to(at::kByte).argmax(0).item<int64_t>();
      p = at::where(p < sorted[last], 0.0F, p);
    }
  }
  if (greedy) {  // of equals, the lowest id
    at::Tensor one = at::zeros_like(p, at::kDouble);
    one[p.argmax(0)] = 1.0;
    return one;
  }
  p = p.to(at::kDouble);
  if (config.temperature != 1) {
    // Relative to the largest, so that a low temperature cannot underflow to all zeros.
    p = (p / p.max()).pow(1.0 / config.temperature);
  }
  return p / p.sum();
}

double DrawStream::next() {
  // SplitMix64 (Steele, Lea, Flood 2014) at position `position_` of the stream `seed_`.
  uint64_t z = seed_ * 0xD1342543DE82EF95ULL + (++position_) * 0x9E3779B97F4A7C15ULL;
  z = (z ^ (z >> 30U)) * 0xBF58476D1CE4E5B9ULL;
  z = (z ^ (z >> 27U)) * 0x94D049BB133111EBULL;
  z ^= z >> 31U;
  return static_cast<double>(z >> 11U) * 0x1.0p-53;
}

int64_t draw(const at::Tensor& probabilities, double uniform) {
  const at::Tensor p = probabilities.to(at::kDouble).contiguous();
  const auto* values = p.const_data_ptr<double>();
  double total = 0;
  for (int64_t i = 0; i < p.numel(); ++i) total += values[i];
  double sum = 0;
  int64_t last_possible = 0;
  for (int64_t i = 0; i < p.numel(); ++i) {
    sum += values[i];
    if (sum > uniform * total) return i;
    if (values[i] > 0) last_possible = i;
  }
  return last_possible;
}

}  // namespace rwkv::model
