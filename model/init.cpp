#include "model/init.h"

#include <torch/torch.h>

#include <algorithm>
#include <cmath>
#include <string>

namespace rwkv::model {
namespace {

bool contains(const std::string& name, const char* part) {
  return name.find(part) != std::string::npos;
}

bool ends_with(const std::string& name, const std::string& end) {
  return name.size() >= end.size() && name.compare(name.size() - end.size(), end.size(), end) == 0;
}

/// The block's index in "blocks.3.att.key.weight".
int64_t layer_of(const std::string& name) { return std::stoll(name.substr(7)); }

struct Depth {
  double from_zero;  // 0 in the first block, 1 in the last
  double to_zero;    // 1 in the first block, 1/L in the last
};

Depth depth_of(const std::string& name, int64_t n_layer) {
  const auto layer = static_cast<double>(layer_of(name));
  const auto L = static_cast<double>(n_layer);
  return {n_layer > 1 ? layer / (L - 1) : 0.0, 1.0 - layer / L};
}

at::Tensor channel_ratio(int64_t n, int64_t divisor) {
  return at::arange(n, at::kDouble) / static_cast<double>(std::max<int64_t>(divisor, 1));
}

/// Decay speeds spread over the channels, faster with depth: exp(-5) to exp(3) per token.
at::Tensor time_decay(int64_t A, Depth depth) {
  return -5 + 8 * channel_ratio(A, A - 1).pow(0.7 + 1.3 * depth.from_zero);
}

/// ln 0.3 with a zigzag of 0, +0.5, -0.5, so that neighbours start different.
at::Tensor time_first(int64_t A) {
  const at::Tensor zigzag = (at::arange(A, at::kLong) + 1).remainder(3) - 1;
  return std::log(0.3) + 0.5 * zigzag.to(at::kDouble);
}

at::Tensor time_mix(const std::string& name, int64_t C, Depth depth) {
  const at::Tensor x = channel_ratio(C, C);
  if (ends_with(name, "att.time_mix_r")) return x.pow(0.5 * depth.to_zero);
  if (ends_with(name, "att.time_mix_v")) return x.pow(depth.to_zero) + 0.3 * depth.from_zero;
  return x.pow(depth.to_zero);
}

/// A matrix [out,in] all of whose singular values are `gain`.
at::Tensor orthogonal(int64_t out, int64_t in, double gain, at::Generator& generator) {
  const bool tall = out >= in;
  at::Tensor normal = at::empty({std::max(out, in), std::min(out, in)}, at::kFloat);
  normal.normal_(0, 1, generator);
  auto [q, r] = at::linalg_qr(normal);
  q = q * at::diagonal(r).sign();  // makes the result uniformly distributed
  return gain * (tall ? q : q.t());
}

/// Zero at the start, so that every block begins as the identity.
bool starts_at_zero(const std::string& name) {
  static constexpr const char* kParts[] = {
      ".att.key.",        ".att.receptance.", ".att.output.",        ".ffn.value.",
      ".ffn.receptance.", ".ffnPre.value.",   ".ffnPre.receptance.", "head_q."};
  return std::any_of(std::begin(kParts), std::end(kParts),
                     [&](const char* part) { return contains(name, part); });
}

at::Tensor matrix(const std::string& name, const at::Tensor& shape_of, at::Generator& generator) {
  const int64_t out = shape_of.size(0);
  const int64_t in = shape_of.size(1);
  if (starts_at_zero(name)) return at::zeros({out, in});
  if (name == "head_k.weight") return orthogonal(out, in, 0.1, generator);
  double gain = out > in ? std::sqrt(static_cast<double>(out) / static_cast<double>(in)) : 1.0;
  if (name == "head.weight") gain *= 0.5;
  return orthogonal(out, in, gain, generator);
}

at::Tensor initial_value(const std::string& name, const at::Tensor& parameter,
                         const ModelConfig& config, double emb_init, at::Generator& generator) {
  if (name == "emb.weight") {
    return at::empty(parameter.sizes(), at::kFloat).uniform_(-emb_init, emb_init, generator);
  }
  if (contains(name, "ln")) {
    return ends_with(name, ".weight") ? at::ones(parameter.sizes()) : at::zeros(parameter.sizes());
  }
  if (contains(name, "time_decay")) {
    return time_decay(parameter.size(0), depth_of(name, config.n_layer));
  }
  if (contains(name, "time_first")) return time_first(parameter.size(0));
  if (contains(name, "time_mix")) {
    return time_mix(name, parameter.size(-1), depth_of(name, config.n_layer)).view({1, 1, -1});
  }
  TORCH_CHECK(parameter.dim() == 2, "no rule to initialise ", name, " of shape ",
              parameter.sizes());
  return matrix(name, parameter, generator);
}

}  // namespace

void init_weights(LanguageModel& model, uint64_t seed, double emb_init) {
  TORCH_CHECK(emb_init >= 0, "emb_init must not be negative, got ", emb_init);
  const torch::NoGradGuard no_grad;
  at::Generator generator = at::detail::createCPUGenerator(seed);
  for (const auto& entry : model.named_parameters()) {
    const at::Tensor value =
        initial_value(entry.key(), entry.value(), model.config(), emb_init, generator);
    at::Tensor parameter = entry.value();
    parameter.copy_(value);
  }
}

}  // namespace rwkv::model
