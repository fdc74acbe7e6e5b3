#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace rwkv::data {

// Which window of the token stream comes next. Both kinds are pure functions of the *ordinal*, the
// number of the sample counted from 1 over all ranks: no state to save, no dependence on the world
// size.

enum class SamplerKind {
  kRandom,  ///< uniform offsets
  kCubic,   ///< a permutation of the chunks of ctx_len tokens: each is seen once before any is seen
            ///< twice
};

enum class SamplerFactor {
  kGolden,  ///< trunc(p * (sqrt(5) - 1) / 2), the rule of RWKV-LM RWKV-v4neo/src/dataset.py
  kOne,     ///< plain n^3 mod p, the first published form
};

struct SamplerConfig {
  SamplerKind kind = SamplerKind::kCubic;
  int64_t magic_prime = 0;  ///< p; 0: the largest one that the data allows
  SamplerFactor factor = SamplerFactor::kGolden;
  int64_t step_bias = 0;  ///< added to the ordinal, >= 0: starts elsewhere in the permutation
  int64_t shift = 0;      ///< tokens added to every cubic offset, 0 <= shift < ctx_len: other cuts
  int64_t random_steps =
      0;              ///< ordinals below it take random offsets; the permutation starts after them
  uint64_t seed = 0;  ///< of the random offsets
};

/// Maps ordinals to offsets. Copyable, without state, safe to call from any thread.
///
/// Cubic: offset = ((f * n^3) mod p) * ctx_len + shift with n = ordinal - random_steps + step_bias.
/// x -> x^3 permutes the residues of p because p mod 3 = 2. Random: uniform in [0, tokens -
/// (ctx_len + 1)), the upper end excluded as in RWKV-LM, from Philox keyed by (seed, ordinal).
class Sampler {
 public:
  /// `tokens`: length of the stream, which must hold at least ctx_len + 2; `place` names it in
  /// messages. Throws UserError when the configuration does not suit the data; a bad prime comes
  /// with a proposal.
  Sampler(const SamplerConfig& config, int64_t tokens, int64_t ctx_len, std::string_view place);

  /// First token of sample `ordinal`; tokens offset ... offset + ctx_len lie inside the stream.
  [[nodiscard]] int64_t offset(uint64_t ordinal) const;

  /// p, the number of samples after which a cubic sampler starts over; 0 for a random one.
  [[nodiscard]] int64_t magic_prime() const { return static_cast<int64_t>(prime_); }
  /// f, or 0 for a random sampler.
  [[nodiscard]] int64_t factor() const { return static_cast<int64_t>(factor_); }

 private:
  [[nodiscard]] int64_t random_offset(uint64_t ordinal) const;

  SamplerConfig config_;
  int64_t tokens_ = 0;
  int64_t ctx_len_ = 0;
  uint64_t prime_ = 0;
  uint64_t factor_ = 0;
};

/// Samples of one mini-epoch in RWKV-LM.
inline constexpr int64_t kSamplesPerEpoch = 40320;

/// Ordinal of the `index`-th sample (from 0) that rank `rank` of `world_size` draws in mini-epoch
/// `epoch`: 1 + epoch * samples_per_epoch + index * world_size + rank.
uint64_t sample_ordinal(int64_t epoch, int64_t index, int64_t world_size, int64_t rank,
                        int64_t samples_per_epoch = kSamplesPerEpoch);

/// Deterministic Miller-Rabin test, exact for every 64-bit number.
bool is_prime(uint64_t number);

/// Largest prime p with p mod 3 = 2 and p <= floor(tokens / ctx_len) - 1, or 0 when there is none
/// (fewer than three chunks). The chunk kept back leaves room for the last target token and for a
/// shift.
int64_t largest_magic_prime(int64_t tokens, int64_t ctx_len);

/// Throws UserError unless p is prime, p mod 3 = 2, p * ctx_len + shift < tokens, and p covers more
/// than nine tenths of the chunks (or is the largest possible). The message proposes the largest
/// possible prime.
void check_magic_prime(int64_t magic_prime, int64_t tokens, int64_t ctx_len, int64_t shift,
                       std::string_view place);

/// Throws UserError when `magic_prime` is one that was published for a known corpus and
/// `tail_tokens` > 0: without the tail the corpus has another prime, so the published order could
/// not be reproduced. `place` is the configuration's name of the prime.
void check_tail_allowed(int64_t magic_prime, int64_t tail_tokens, std::string_view place);

}  // namespace rwkv::data
