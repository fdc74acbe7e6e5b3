#pragma once

#include <cstdint>
#include <string_view>

namespace rwkv::trainer {

/// Rewrites one line of the terminal, "WHAT: 12 % of 3.4 GB", and clears it when all is done.
/// Silent where standard error is no terminal.
void show_bytes(std::string_view what, int64_t done_bytes, int64_t all_bytes);

}  // namespace rwkv::trainer
