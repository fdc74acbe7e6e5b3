#include "model/sampling.h"

#include <torch/torch.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "data/base/error.h"
#include "model/sampling_fields.h"
#include "model/setting_check.h"

namespace rwkv::model {
namespace {

/// Probabilities by id; 0 is what a filter dropped. They need not sum to one between two filters.
using Probabilities = std::vector<double>;

double total(const Probabilities& p) {
  double sum = 0;
  for (const double value : p) sum += value;
  return sum;
}

/// Softmax in float32, as the originals compute it.
Probabilities softmax(const at::Tensor& logits32) {
  const at::Tensor p = at::softmax(logits32, 0).contiguous();
  const auto* values = p.const_data_ptr<float>();
  return {values, values + p.numel()};
}

/// Hands ids to `take` in the order of `before` until it returns false. Sorts no further than
/// asked: the likeliest few of 65536 tokens are mostly enough.
template <typename Before, typename Take>
void walk(const Probabilities& p, const Before& before, const Take& take) {
  std::vector<int64_t> ids;
  for (size_t id = 0; id < p.size(); ++id) {
    if (p[id] > 0) ids.push_back(static_cast<int64_t>(id));
  }
  auto sorted = ids.begin();
  for (int64_t block = 64; sorted != ids.end(); block *= 8) {
    const auto end = sorted + std::min<int64_t>(block, ids.end() - sorted);
    std::partial_sort(sorted, end, ids.end(), before);
    for (; sorted != end; ++sorted) {
      if (!take(*sorted)) return;
    }
  }
}

template <typename Take>
void walk_down(const Probabilities& p, const Take& take) {
  const auto at = [&p](int64_t id) { return p[static_cast<size_t>(id)]; };
  walk(
      p, [&](int64_t a, int64_t b) { return at(a) != at(b) ? at(a) > at(b) : a < b; }, take);
}

void drop_below(Probabilities& p, double cutoff) {
  for (double& value : p) value = value < cutoff ? 0.0 : value;
}

/// How a running sum meets top_p.
enum class Meets : uint8_t { kReaches, kExceeds };

/// The probability of the first sorted token at which the running sum meets `top_p`, or 0.
double top_p_cutoff(const Probabilities& p, double top_p, Meets meets) {
  double sum = 0;
  double cutoff = 0;
  walk_down(p, [&](int64_t id) {
    const double value = p[static_cast<size_t>(id)];
    sum += value;
    const bool met = meets == Meets::kReaches ? sum >= top_p : sum > top_p;
    if (met) cutoff = value;
    return !met;
  });
  return cutoff;
}

void keep_top_k(Probabilities& p, int64_t top_k) {
  if (top_k <= 0 || top_k >= std::ssize(p)) return;
  Probabilities kept(p.size(), 0.0);
  walk_down(p, [&](int64_t id) {
    kept[static_cast<size_t>(id)] = p[static_cast<size_t>(id)];
    return --top_k > 0;
  });
  p = std::move(kept);
}

void drop_top_a(Probabilities& p, const SamplingConfig& config) {
  if (config.top_a <= 0) return;
  const double largest = *std::max_element(p.begin(), p.end());
  drop_below(p, std::min(largest, config.top_a * std::pow(largest, config.top_a_power)));
}

/// P^(1/temperature), relative to the largest, so that a low temperature cannot underflow to all
/// zeros.
void temper(Probabilities& p, double temperature) {
  if (temperature == 1) return;
  const double largest = *std::max_element(p.begin(), p.end());
  for (double& value : p) value = value > 0 ? std::pow(value / largest, 1.0 / temperature) : 0.0;
}

Probabilities chat_rwkv(const at::Tensor& logits32, const SamplingConfig& config) {
  Probabilities p = softmax(logits32);
  drop_top_a(p, config);
  if (config.top_p < 1) {
    const double mass = config.top_p * (config.top_a > 0 ? total(p) : 1.0);
    drop_below(p, std::min(top_p_cutoff(p, mass, Meets::kReaches), config.top_p_x));
  }
  keep_top_k(p, config.top_k);
  temper(p, config.temperature);
  return p;
}

Probabilities rwkv_lm(const at::Tensor& logits32, const SamplingConfig& config) {
  Probabilities p = softmax(logits32);
  if (config.top_p < 1) drop_below(p, top_p_cutoff(p, config.top_p, Meets::kExceeds));
  temper(p, config.temperature);
  return p;
}

Probabilities rwkv_v1(const at::Tensor& logits32, const SamplingConfig& config) {
  Probabilities p = softmax(logits32 / config.temperature);
  drop_top_a(p, config);
  if (config.top_k > 0) {
    int64_t left = config.top_k;
    double cutoff = 0;
    walk_down(p, [&](int64_t id) {
      cutoff = p[static_cast<size_t>(id)];
      return --left > 0;
    });
    drop_below(p, cutoff);
  }
  if (config.top_p >= 1) return p;
  const double mass = config.top_p * total(p);
  Probabilities kept(p.size(), 0.0);
  double sum = 0;
  walk_down(p, [&](int64_t id) {
    kept[static_cast<size_t>(id)] = p[static_cast<size_t>(id)];
    sum += p[static_cast<size_t>(id)];
    return !(sum > mass);
  });
  return kept;
}

Probabilities typical(const at::Tensor& logits32, const SamplingConfig& config) {
  Probabilities p = softmax(logits32 / config.temperature);
  double entropy = 0;
  for (const double value : p) entropy -= value > 0 ? value * std::log(value) : 0.0;
  std::vector<double> scores(p.size());
  for (size_t id = 0; id < p.size(); ++id) scores[id] = std::abs(-std::log(p[id]) - entropy);
  const auto score = [&scores](int64_t id) { return scores[static_cast<size_t>(id)]; };
  Probabilities kept(p.size(), 0.0);
  double sum = 0;
  double last = INFINITY;  // the score at which the sum reaches the mass: its equals stay
  const auto before = [&](int64_t a, int64_t b) {
    return score(a) != score(b) ? score(a) < score(b) : a < b;
  };
  walk(p, before, [&](int64_t id) {
    if (score(id) > last) return false;
    kept[static_cast<size_t>(id)] = p[static_cast<size_t>(id)];
    sum += p[static_cast<size_t>(id)];
    if (last == INFINITY && sum >= config.typical_mass) last = score(id);
    return true;
  });
  return kept;
}

/// All of it on the first of the likeliest.
at::Tensor greedy(const at::Tensor& logits32) {
  at::Tensor one = at::zeros({logits32.numel()}, at::kDouble);
  const auto* values = logits32.const_data_ptr<float>();
  const auto best = std::max_element(values, values + logits32.numel()) - values;
  one.mutable_data_ptr<double>()[best] = 1.0;
  return one;
}

Probabilities filtered(const at::Tensor& logits32, const SamplingConfig& config) {
  switch (config.sampler) {
    case Sampler::kChatRwkv:
      return chat_rwkv(logits32, config);
    case Sampler::kRwkvLm:
      return rwkv_lm(logits32, config);
    case Sampler::kRwkvV1:
      return rwkv_v1(logits32, config);
    case Sampler::kTypical:
      return typical(logits32, config);
  }
  throw std::logic_error("next_token_probabilities: unknown sampler");
}

/// A filter that is switched on and that the sampler does not have would be ignored in silence.
void check_filters(const SamplingConfig& config, const char* prefix) {
  const bool chat = config.sampler == Sampler::kChatRwkv;
  const bool v1 = config.sampler == Sampler::kRwkvV1;
  const auto check_filter = [&](const char* name, bool on, bool has, const char* instead) {
    if (!on || has) return;
    user_error("{}: the sampler {} has no such filter; set {} to {}, or leave it out",
               setting_name(prefix, name), name_of(kSamplerNames, config.sampler),
               setting_name(prefix, "sampler"), instead);
  };
  check_filter("top_k", config.top_k > 0, chat || v1, "chatrwkv or rwkv_v1");
  check_filter("top_p_x", config.top_p_x < 1, chat, "chatrwkv");
  check_filter("top_a", config.top_a > 0, chat || v1, "chatrwkv or rwkv_v1");
  check_filter("typical_mass", config.typical_mass < 1, config.sampler == Sampler::kTypical,
               "typical");
}

}  // namespace

void check(const SamplingConfig& config, const char* prefix) {
  visit_sampling(config, SettingCheck{prefix});
  check_filters(config, prefix);
}

at::Tensor next_token_probabilities(const at::Tensor& logits, const SamplingConfig& config) {
  TORCH_CHECK(logits.dim() == 1 && logits.numel() > 0, "logits must be [V], got ", logits.sizes());
  const at::Tensor logits32 = logits.to(at::kCPU, at::kFloat).contiguous();
  const float largest = logits32.max().item<float>();  // NaN when there is one
  if (!std::isfinite(largest)) {
    user_error("the model's logits are not finite; the weights are damaged or training diverged");
  }
  if (config.temperature == 0) return greedy(logits32);
  Probabilities p = filtered(logits32, config);
  const double sum = total(p);
  for (double& value : p) value /= sum;
  return torch::tensor(p, at::kDouble);
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
  double total_mass = 0;
  for (int64_t i = 0; i < p.numel(); ++i) total_mass += values[i];
  double sum = 0;
  int64_t last_possible = 0;
  for (int64_t i = 0; i < p.numel(); ++i) {
    sum += values[i];
    if (sum > uniform * total_mass) return i;
    if (values[i] > 0) last_possible = i;
  }
  return last_possible;
}

}  // namespace rwkv::model
