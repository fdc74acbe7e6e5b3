#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace rwkv::formats {

/// CRC-32 as zip files use it (ISO 3309; of "123456789": 0xCBF43926) of `bytes`, continuing from
/// `crc` (0 at the start). As fast as memory where the processor multiplies without carry.
uint32_t crc32(std::span<const std::byte> bytes, uint32_t crc = 0);

}  // namespace rwkv::formats
