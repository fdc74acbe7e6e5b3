#pragma once

#include <string>

namespace rwkv::trainer {

/// "0.1.0 (commit abc1234, LibTorch 2.11.0)"; the commit is that of the checkout at configure time.
std::string version_text();

}  // namespace rwkv::trainer
