#pragma once

#include <string>
#include <vector>

#include "trainer/machine_facts.h"

namespace rwkv::trainer {

/// "0.1.0 (commit abc1234, LibTorch 2.11.0)"; the commit is that of the checkout at configure time.
std::string version_text();

/// Compiler and flags, as CMake had them.
BuildFacts build_facts();
/// CUDA architectures that this binary holds code for, and the compiler's version; empty in a CPU
/// build.
std::vector<std::string> cuda_architectures();
std::string cuda_compiler_version();

}  // namespace rwkv::trainer
