#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <cstdint>

#include "data/base/named.h"

namespace rwkv::model {

/// Which rules turn logits into the probabilities that a token is drawn from. They differ in the
/// order of their steps; P is the softmax of the logits in float32, "sorted" means falling, of
/// equals the lower id first.
enum class Sampler : uint8_t {
  /// The `rwkv` package (ChatRWKV `rwkv_pip_package/src/rwkv/utils.py`, sample_logits), widened by
  /// two filters of RWKV-LM's README that are off by default:
  ///   top_a   drop P < top_a * max(P)^top_a_power
  ///   top_p   drop P below that of the first sorted token at which the running sum reaches top_p
  ///   top_p_x ... but keep every P >= top_p_x
  ///   top_k   keep the first top_k of the sorted tokens
  ///   temperature at last: P^(1/temperature) of what is left
  kChatRwkv,
  /// RWKV-LM's `run.py` of v2 to v4neo: top_p by a running sum that exceeds it, then temperature.
  kRwkvLm,
  /// RWKV-LM's `RWKV-v1/src/utils.py`: logits / temperature, top_a, top_k (equals of the last one
  /// stay), top_p over what is left (equals do not stay).
  kRwkvV1,
  /// Typical sampling (Meister et al. 2022, arXiv:2202.00666; transformers' TypicalLogitsWarper):
  /// logits / temperature; H = -sum P ln P; in rising order of |-ln P - H|, keep the tokens down to
  /// the one at which the running sum of P reaches typical_mass.
  kTypical,
};

inline constexpr std::array kSamplerNames{
    Named{Sampler::kChatRwkv, "chatrwkv"}, Named{Sampler::kRwkvLm, "rwkv_lm"},
    Named{Sampler::kRwkvV1, "rwkv_v1"}, Named{Sampler::kTypical, "typical"}};

/// How the next token is drawn. Filters are off where nothing else is said.
struct SamplingConfig {
  double temperature = 1.0;   // >= 0; 0: the likeliest token, of equals the lowest id
  double top_p = 0.9;         // 0..1; 1 keeps every token
  int64_t top_k = 0;          // >= 0; 0 keeps every token
  double top_p_x = 1.0;       // 0..1; 1 adds nothing to top_p
  double top_a = 0.0;         // 0..1; 0 keeps every token, 0.2 is RWKV-LM's advice for text
  double top_a_power = 2.0;   // > 0
  double typical_mass = 1.0;  // 0..1; 1 keeps every token
  Sampler sampler = Sampler::kChatRwkv;
};

/// Throws UserError when a value is out of range, not a number, or one that the sampler has no use
/// for; `prefix` stands before the value's name ("--": names as options of the command line).
void check(const SamplingConfig& config, const char* prefix);

/// Probabilities of the next token, float64 [V]. Where nothing reaches the running sum that top_p
/// asks for, as rounding may have it at top_p = 1, everything stays (the package becomes greedy
/// then). logits: [V], -inf allowed. Throws UserError when a logit is NaN or +inf, or all are -inf.
at::Tensor next_token_probabilities(const at::Tensor& logits, const SamplingConfig& config);

/// A stream of uniform numbers that is a function of (seed, position): draws of a sequence repeat
/// on any machine.
class DrawStream {
 public:
  explicit DrawStream(uint64_t seed, uint64_t position = 0) : seed_(seed), position_(position) {}
  /// The next number in [0,1), with 53 random bits.
  double next();
  /// How many numbers have been taken.
  [[nodiscard]] uint64_t position() const { return position_; }

 private:
  uint64_t seed_;
  uint64_t position_;
};

/// The first id whose cumulative probability, in id order, exceeds `uniform` (in [0,1)) times the
/// total.
int64_t draw(const at::Tensor& probabilities, double uniform);

}  // namespace rwkv::model
