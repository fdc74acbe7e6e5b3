#include "model/penalties.h"

#include <torch/torch.h>

#include <cmath>
#include <string>

#include "model/sampling_fields.h"
#include "model/setting_check.h"

namespace rwkv::model {
namespace {

template <typename Number>
void apply_to(at::Tensor& logits, const Occurrence& occurrence, const PenaltyConfig& config) {
  const int64_t stride = logits.stride(0);
  auto* values = logits.mutable_data_ptr<Number>();
  for (const auto& [id, times] : occurrence) {
    TORCH_CHECK(id >= 0 && id < logits.numel(), "penalties: token ", id, " of ", logits.numel());
    auto value = static_cast<double>(values[id * stride]);
    value = value > 0 ? value / config.repetition_penalty : value * config.repetition_penalty;
    value -= config.presence_penalty + times * config.frequency_penalty;
    values[id * stride] = static_cast<Number>(value);
  }
}

}  // namespace

double penalty_weight(PenaltyWeight rule, int64_t id, std::string_view text) {
  switch (rule) {
    case PenaltyWeight::kNotDigits:
      return std::string_view(" \t0123456789").find(text) == std::string_view::npos ? 1.0 : 0.0;
    case PenaltyWeight::kEvery:
      return 1.0;
    case PenaltyWeight::kMusic:
      return id < 127 ? 0.3 : 1.0;
  }
  throw std::logic_error("penalty_weight: unknown rule");
}

void check(const PenaltyConfig& config, const char* prefix) {
  visit_penalties(config, SettingCheck{prefix});
}

void apply_penalties(at::Tensor& logits, const Occurrence& occurrence,
                     const PenaltyConfig& config) {
  TORCH_CHECK(logits.dim() == 1 && logits.is_cpu(),
              "penalties: logits must be [V] on the CPU, got ", logits.sizes(), " on ",
              logits.device());
  if (logits.scalar_type() == at::kDouble) return apply_to<double>(logits, occurrence, config);
  TORCH_CHECK(logits.scalar_type() == at::kFloat, "penalties: logits must be float32 or float64, ",
              "got ", logits.scalar_type());
  apply_to<float>(logits, occurrence, config);
}

void count_token(Occurrence& occurrence, int64_t id, double weight, const PenaltyConfig& config) {
  for (auto& entry : occurrence) entry.second *= config.penalty_decay;
  occurrence[id] += weight;
}

}  // namespace rwkv::model
