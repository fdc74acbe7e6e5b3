#pragma once

#include <string>
#include <vector>

#include "trainer/machine_facts.h"

namespace rwkv::trainer {

enum class Severity {
  kWarning,  // it works, but slowly, or not as one would think
  kError     // must be mended
};

/// One thing that is wrong with a machine.
struct Finding {
  Severity severity = Severity::kWarning;
  std::string topic;  // the row of `rwkv doctor` that it is about
  std::string what;
  std::string mend;
};

/// What is wrong, by topic. A function of the facts alone.
std::vector<Finding> check_machine(const MachineFacts& facts);

/// Whether code compiled for `architectures` (of CMAKE_CUDA_ARCHITECTURES: "80", "90a", "75-real",
/// "75-virtual") runs on a device of this capability: machine code on devices of the same major
/// number and no smaller minor one, intermediate code (which "80" also holds) on all later devices,
/// and "90a" on that one alone.
bool runs_on(const std::vector<std::string>& architectures, int capability);

}  // namespace rwkv::trainer
