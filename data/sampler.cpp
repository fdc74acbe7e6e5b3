#include "data/sampler.h"

#include <fmt/format.h>

#include <array>
#include <cmath>
#include <stdexcept>

#include "data/base/checked.h"
#include "data/base/error.h"
#include "data/counter_rng.h"

namespace rwkv::data {
namespace {

__extension__ using Wide = unsigned __int128;

/// Separates the offsets' random numbers from any other use of the same seed.
constexpr uint64_t kOffsetStream = 1;

uint64_t mul_mod(uint64_t a, uint64_t b, uint64_t modulus) {
  return static_cast<uint64_t>(static_cast<Wide>(a) * b % modulus);
}

uint64_t add_mod(uint64_t a, uint64_t b, uint64_t modulus) {
  return static_cast<uint64_t>((static_cast<Wide>(a) + b) % modulus);
}

uint64_t pow_mod(uint64_t base, uint64_t exponent, uint64_t modulus) {
  uint64_t result = 1;
  for (base %= modulus; exponent != 0; exponent >>= 1) {
    if ((exponent & 1) != 0) result = mul_mod(result, base, modulus);
    base = mul_mod(base, base, modulus);
  }
  return result;
}

std::string proposal(int64_t tokens, int64_t ctx_len) {
  const int64_t best = largest_magic_prime(tokens, ctx_len);
  if (best == 0) return "the data is too short for any; use a smaller ctx_len";
  return fmt::format("use {} (or 0 to have it computed)", best);
}

/// Published primes: the Pile, its two-file mixture, minipile (RWKV-LM train.py of v4neo, v5, v7).
struct ReleasedPrime {
  int64_t prime;
  std::string_view corpus;
};
constexpr std::array kReleasedPrimes{
    ReleasedPrime{324331313, "the Pile at ctx_len 1024"},
    ReleasedPrime{162165671, "the Pile at ctx_len 2048"},
    ReleasedPrime{81082817, "the Pile at ctx_len 4096"},
    ReleasedPrime{40541399, "the Pile at ctx_len 8192"},
    ReleasedPrime{1670239709, "the version-2 mixture at ctx_len 1024"},
    ReleasedPrime{835119767, "the version-2 mixture at ctx_len 2048"},
    ReleasedPrime{417559889, "the version-2 mixture at ctx_len 4096"},
    ReleasedPrime{278373239, "the version-2 mixture at ctx_len 6144"},
    ReleasedPrime{208779911, "the version-2 mixture at ctx_len 8192"},
    ReleasedPrime{2926181, "minipile at ctx_len 512"},
    ReleasedPrime{365759, "minipile at ctx_len 4096"},
};

void check_ranges(const SamplerConfig& config, int64_t tokens, int64_t ctx_len,
                  std::string_view place) {
  if (ctx_len < 1) user_error("{}: ctx_len is {}; use 1 or more", place, ctx_len);
  // tokens - 2 cannot overflow downwards: negative sizes are refused by the same comparison.
  if (tokens < 2 || tokens - 2 < ctx_len) {
    user_error(
        "{}: {} tokens are too few for ctx_len {}, which needs ctx_len + 2; use more data or a "
        "smaller ctx_len",
        place, tokens, ctx_len);
  }
  if (config.step_bias < 0) {
    user_error("{}: step_bias is {}; use 0 or more", place, config.step_bias);
  }
  if (config.random_steps < 0) {
    user_error("{}: random_steps is {}; use 0 or more", place, config.random_steps);
  }
  if (config.shift < 0 || config.shift >= ctx_len) {
    user_error("{}: shift is {}; use 0 <= shift < ctx_len = {}", place, config.shift, ctx_len);
  }
}

}  // namespace

bool is_prime(uint64_t number) {
  // These twelve bases decide every number below 3.3e24 (Sorenson and Webster, 2015).
  constexpr std::array<uint64_t, 12> kBases{2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37};
  if (number < 2) return false;
  for (const uint64_t base : kBases) {
    if (number % base == 0) return number == base;
  }
  uint64_t odd = number - 1;
  int twos = 0;
  for (; (odd & 1) == 0; odd >>= 1) ++twos;
  for (const uint64_t base : kBases) {
    uint64_t x = pow_mod(base, odd, number);
    bool composite = x != 1 && x != number - 1;
    for (int i = 1; composite && i < twos; ++i) {
      x = mul_mod(x, x, number);
      composite = x != number - 1;
    }
    if (composite) return false;
  }
  return true;
}

int64_t largest_magic_prime(int64_t tokens, int64_t ctx_len) {
  if (tokens < 0 || ctx_len < 1) {
    throw std::logic_error(fmt::format("{} tokens, ctx_len {}", tokens, ctx_len));
  }
  int64_t candidate = tokens / ctx_len - 1;
  for (; candidate >= 2; --candidate) {
    if (candidate % 3 == 2 && is_prime(static_cast<uint64_t>(candidate))) return candidate;
  }
  return 0;
}

void check_magic_prime(int64_t magic_prime, int64_t tokens, int64_t ctx_len, int64_t shift,
                       std::string_view place) {
  const auto refuse = [&](const std::string& reason) {
    user_error("{}: magic_prime {} {}; {}", place, magic_prime, reason, proposal(tokens, ctx_len));
  };
  if (magic_prime < 2 || !is_prime(static_cast<uint64_t>(magic_prime))) refuse("is not prime");
  if (magic_prime % 3 != 2) refuse("is not 2 modulo 3, so cubes would repeat chunks");
  const auto covered = checked_mul(magic_prime, ctx_len);
  const auto end = covered ? checked_add(*covered, shift) : covered;
  if (!end || *end >= tokens) {
    refuse(
        fmt::format("is too large: {} chunks of ctx_len {} with shift {} do not fit into {} tokens",
                    magic_prime, ctx_len, shift, tokens));
  }
  const int64_t chunks = tokens / ctx_len;
  const bool large = static_cast<double>(magic_prime) > 0.9 * static_cast<double>(chunks);
  if (!large && magic_prime != largest_magic_prime(tokens, ctx_len)) {
    refuse(
        fmt::format("is too small: the data has {} chunks of ctx_len {}, the others would never be "
                    "seen",
                    chunks, ctx_len));
  }
}

void check_tail_allowed(int64_t magic_prime, int64_t tail_tokens, std::string_view place) {
  if (tail_tokens <= 0) return;
  for (const ReleasedPrime& released : kReleasedPrimes) {
    if (released.prime != magic_prime) continue;
    user_error(
        "{}: {} was published for {}; a validation tail cut from the training data would change "
        "the prime and with it the order; name a separate validation file, or leave magic_prime at "
        "0",
        place, magic_prime, released.corpus);
  }
}

uint64_t sample_ordinal(int64_t epoch, int64_t index, int64_t world_size, int64_t rank,
                        int64_t samples_per_epoch) {
  if (epoch < 0 || index < 0 || world_size < 1 || rank < 0 || rank >= world_size ||
      samples_per_epoch < 1) {
    throw std::logic_error(
        fmt::format("sample_ordinal: epoch {}, index {}, rank {} of {}, {} samples in an epoch",
                    epoch, index, rank, world_size, samples_per_epoch));
  }
  const auto before = checked_mul(epoch, samples_per_epoch);
  const auto drawn = checked_mul(index, world_size);
  const auto sum = before && drawn ? checked_add(*before, *drawn) : std::nullopt;
  if (!sum) throw std::logic_error(fmt::format("sample_ordinal: epoch {} overflows", epoch));
  return static_cast<uint64_t>(*sum) + static_cast<uint64_t>(rank) + 1;
}

Sampler::Sampler(const SamplerConfig& config, int64_t tokens, int64_t ctx_len,
                 std::string_view place)
    : config_(config), tokens_(tokens), ctx_len_(ctx_len) {
  check_ranges(config, tokens, ctx_len, place);
  if (config.kind == SamplerKind::kRandom) return;
  int64_t prime = config.magic_prime;
  if (prime == 0) {
    prime = largest_magic_prime(tokens, ctx_len);
    if (prime == 0) {
      user_error(
          "{}: {} tokens hold {} chunks of ctx_len {}, the cubic sampler needs at least 3; use a "
          "smaller ctx_len or the random sampler",
          place, tokens, tokens / ctx_len, ctx_len);
    }
  } else {
    check_magic_prime(prime, tokens, ctx_len, config.shift, place);
  }
  prime_ = static_cast<uint64_t>(prime);
  // The golden ratio spreads neighbouring ordinals over the file: 1, 8, 27 would all sit at its
  // head.
  factor_ = config.factor == SamplerFactor::kOne
                ? 1
                : static_cast<uint64_t>(static_cast<double>(prime) * ((std::sqrt(5.0) - 1) / 2));
}

int64_t Sampler::offset(uint64_t ordinal) const {
  const auto random_steps = static_cast<uint64_t>(config_.random_steps);
  if (prime_ == 0 || ordinal < random_steps) return random_offset(ordinal);
  // Reduced before each product, so that no product exceeds p^2 and 128 bits suffice for any p.
  const uint64_t n =
      add_mod((ordinal - random_steps) % prime_, static_cast<uint64_t>(config_.step_bias), prime_);
  uint64_t chunk = factor_;
  for (int i = 0; i < 3; ++i) chunk = mul_mod(chunk, n, prime_);
  return static_cast<int64_t>(chunk) * ctx_len_ + config_.shift;
}

int64_t Sampler::random_offset(uint64_t ordinal) const {
  return random_below(tokens_ - (ctx_len_ + 1), config_.seed, kOffsetStream, ordinal);
}

}  // namespace rwkv::data
