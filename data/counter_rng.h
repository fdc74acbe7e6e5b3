#pragma once

#include <array>
#include <cstdint>

namespace rwkv::data {

// A counter-based generator has no state: the n-th number is a function of n. That makes the order
// of the data independent of restarts and of the number of ranks.

/// Philox4x32-10 (Salmon, Moraes, Dror, Shaw: Parallel random numbers: as easy as 1, 2, 3, SC
/// 2011): 128 random bits for each pair of counter and key. Equal to Random123's function of this
/// name.
constexpr std::array<uint32_t, 4> philox4x32(std::array<uint32_t, 4> counter,
                                             std::array<uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t{0xD2511F53} * counter[0];
    const uint64_t b = uint64_t{0xCD9E8D57} * counter[2];
    counter = {static_cast<uint32_t>(b >> 32) ^ counter[1] ^ key[0], static_cast<uint32_t>(b),
               static_cast<uint32_t>(a >> 32) ^ counter[3] ^ key[1], static_cast<uint32_t>(a)};
    key[0] += 0x9E3779B9;
    key[1] += 0xBB67AE85;
  }
  return counter;
}

/// Number `index` of sequence `stream` of the generator seeded with `seed`: 64 random bits.
constexpr uint64_t random_bits(uint64_t seed, uint64_t stream, uint64_t index) {
  const auto low = [](uint64_t value) { return static_cast<uint32_t>(value); };
  const auto high = [](uint64_t value) { return static_cast<uint32_t>(value >> 32); };
  const auto bits =
      philox4x32({low(index), high(index), low(stream), high(stream)}, {low(seed), high(seed)});
  return (uint64_t{bits[1]} << 32) | bits[0];
}

/// random_bits() mapped to 0 ... bound-1 by multiplication (bound > 0). A value is favoured by at
/// most bound / 2^64: below 10^-7 for the longest streams in use.
constexpr int64_t random_below(int64_t bound, uint64_t seed, uint64_t stream, uint64_t index) {
  __extension__ using Wide = unsigned __int128;
  const auto product = static_cast<Wide>(random_bits(seed, stream, index)) *
                       static_cast<Wide>(static_cast<uint64_t>(bound));
  return static_cast<int64_t>(product >> 64);
}

}  // namespace rwkv::data
