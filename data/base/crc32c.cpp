#include "data/base/crc32c.h"

#include <array>
#include <cstring>

#if defined(__x86_64__)
#include <nmmintrin.h>
#endif

namespace rwkv {
namespace {

constexpr uint32_t kPolynomial = 0x82F63B78U;  // reflected Castagnoli

constexpr std::array<uint32_t, 256> make_table() {
  std::array<uint32_t, 256> table{};
  for (uint32_t i = 0; i < 256; ++i) {
    uint32_t value = i;
    for (int bit = 0; bit < 8; ++bit)
      value = (value >> 1U) ^ ((value & 1U) != 0 ? kPolynomial : 0U);
    table[i] = value;
  }
  return table;
}

constexpr auto kTable = make_table();

uint32_t update_table(std::span<const std::byte> bytes, uint32_t state) {
  for (const std::byte b : bytes) {
    state = (state >> 8U) ^ kTable[(state ^ std::to_integer<uint32_t>(b)) & 0xFFU];
  }
  return state;
}

#if defined(__x86_64__)
// A whole word per instruction: checksumming a checkpoint must not be slower than the disk.
__attribute__((target("sse4.2"))) uint32_t update_sse42(std::span<const std::byte> bytes,
                                                        uint32_t state) {
  uint64_t wide = state;
  size_t i = 0;
  for (; i + 8 <= bytes.size(); i += 8) {
    uint64_t word = 0;
    std::memcpy(&word, bytes.data() + i, 8);
    wide = _mm_crc32_u64(wide, word);
  }
  return update_table(bytes.subspan(i), static_cast<uint32_t>(wide));
}
#endif

}  // namespace

uint32_t crc32c(std::span<const std::byte> bytes, uint32_t crc) {
  const uint32_t state = ~crc;
#if defined(__x86_64__)
  if (__builtin_cpu_supports("sse4.2")) return ~update_sse42(bytes, state);
#endif
  return ~update_table(bytes, state);
}

}  // namespace rwkv
