#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace rwkv::model {

/// How the next token is drawn. temperature 0 is greedy.
struct SamplingConfig {
  double temperature = 1.0;  // >= 0
  double top_p = 0.9;        // 0..1; 1 keeps every token
};

/// Throws UserError when a value is out of range or not a number; `where` starts the message.
void check(const SamplingConfig& config, const char* where);

/// Probabilities of the next token, float64 [V], by the rules of the `rwkv` package's sampler
/// (ChatRWKV `rwkv_pip_package/src/rwkv/utils.py`, sample_logits): softmax in float32; keep the
/// tokens down to the one at which the cumulative sum of sorted probabilities reaches top_p (equals
/// of that one stay); then raise to 1 / temperature: so temperature acts after top-p. Unlike there,
/// top_p = 1 keeps everything even when rounding leaves the sum below 1. logits: [V], -inf allowed.
/// Throws UserError when a logit is NaN or all are -inf.
at::Tensor next_token_probabilities(const at::Tensor& logits, const SamplingConfig& config);

/// A stream of uniform numbers that is a function of (seed, position): draws of a sequence repeat
/// on any machine.
class DrawStream {
 public:
  explicit DrawStream(uint64_t seed) : seed_(seed) {}
  /// The next number in [0,1), with 53 random bits.
  double next();

 private:
  uint64_t seed_;
  uint64_t position_ = 0;
};

/// The first id whose cumulative probability, in id order, exceeds `uniform` (in [0,1)) times the
/// total.
int64_t draw(const at::Tensor& probabilities, double uniform);

}  // namespace rwkv::model
