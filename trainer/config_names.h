#pragma once

#include <cstdint>

#include "data/base/named.h"

namespace rwkv::trainer {

/// Largest count of steps or tokens a configuration may name: exact in double arithmetic.
inline constexpr int64_t kMaxCount = 1'000'000'000'000'000;

}  // namespace rwkv::trainer
