#include "model/formats/crc32.h"

#include <zlib.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace rwkv::formats {
namespace {

uint32_t by_zlib(std::span<const std::byte> bytes, uint32_t crc) {
  const auto* data = reinterpret_cast<const Bytef*>(bytes.data());
  return static_cast<uint32_t>(::crc32_z(crc, data, bytes.size()));
}

#if defined(__x86_64__)
// zlib's tables make 1 to 2 GB/s, less than a disk may give. A CRC is a remainder of polynomials
// over GF(2), so a block of 128 bits can be moved d bits further by multiplying its halves with
// x^(d+32) and x^(d-32) modulo the polynomial, and added to what lies there (Gopal et al., "Fast
// CRC Computation for Generic Polynomials Using PCLMULQDQ Instruction", Intel 2009, where the
// constants are derived; bits are reflected).
constexpr int64_t kFold512[2] = {0x154442bd4, 0x1c6e41596};  // four blocks at a time
constexpr int64_t kFold128[2] = {0x1751997d0, 0x0ccaa009e};  // one block
constexpr size_t kBlock = 16;
constexpr size_t kLeast = 4 * kBlock;

#define RWKV_CLMUL __attribute__((target("pclmul,sse4.1")))

RWKV_CLMUL __m128i load(const std::byte* at) {
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(at));
}

RWKV_CLMUL __m128i fold(__m128i block, __m128i next, __m128i constants) {
  const __m128i low = _mm_clmulepi64_si128(block, constants, 0x00);
  const __m128i high = _mm_clmulepi64_si128(block, constants, 0x11);
  return _mm_xor_si128(_mm_xor_si128(low, high), next);
}

/// `bytes`: a multiple of 16, 64 at least.
RWKV_CLMUL uint32_t by_multiplication(std::span<const std::byte> bytes, uint32_t crc) {
  const std::byte* at = bytes.data();
  const std::byte* end = at + bytes.size();
  __m128i a = _mm_xor_si128(load(at), _mm_cvtsi32_si128(static_cast<int>(~crc)));
  __m128i b = load(at + kBlock);
  __m128i c = load(at + 2 * kBlock);
  __m128i d = load(at + 3 * kBlock);
  const __m128i by_four = _mm_set_epi64x(kFold512[1], kFold512[0]);
  for (at += kLeast; end - at >= static_cast<std::ptrdiff_t>(kLeast); at += kLeast) {
    a = fold(a, load(at), by_four);
    b = fold(b, load(at + kBlock), by_four);
    c = fold(c, load(at + 2 * kBlock), by_four);
    d = fold(d, load(at + 3 * kBlock), by_four);
  }
  const __m128i by_one = _mm_set_epi64x(kFold128[1], kFold128[0]);
  a = fold(fold(fold(a, b, by_one), c, by_one), d, by_one);
  for (; at < end; at += kBlock) a = fold(a, load(at), by_one);
  // 128 bits are left that have the same remainder, from a state of 0.
  std::byte rest[kBlock];
  _mm_storeu_si128(reinterpret_cast<__m128i*>(rest), a);
  return by_zlib(rest, 0xffffffffU);
}
#endif

}  // namespace

uint32_t crc32(std::span<const std::byte> bytes, uint32_t crc) {
#if defined(__x86_64__)
  if (bytes.size() >= kLeast && __builtin_cpu_supports("pclmul") != 0) {
    const size_t whole = bytes.size() / kBlock * kBlock;
    crc = by_multiplication(bytes.first(whole), crc);
    bytes = bytes.subspan(whole);
  }
#endif
  return by_zlib(bytes, crc);
}

}  // namespace rwkv::formats
