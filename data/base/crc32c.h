#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace rwkv {

/// CRC-32C (Castagnoli, RFC 3720 B.4; check value of "123456789" is 0xE3069283) of `bytes`,
/// continuing from `crc` (0 at the start).
uint32_t crc32c(std::span<const std::byte> bytes, uint32_t crc = 0);

}  // namespace rwkv
