#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace rwkv::trainer {

/// What `rwkv launch` starts.
struct LaunchPlan {
  std::filesystem::path program;
  std::vector<std::string> arguments;  // without the program's name
  int64_t nproc = 1;                   // ranks, all on this machine
  int64_t restarts = 0;                // of the whole group, after a rank was lost
};

/// Starts the ranks with torchrun's variables, and a store on 127.0.0.1 in this process, so that no
/// rank's death takes it away. Passes SIGTERM, SIGINT and SIGUSR1 on to all. When a rank fails, the
/// others get kGraceS seconds to say what they know before they are killed. After a lost rank (a
/// signal, exit code 1 or 5) the group starts anew, `restarts` times at most. Should this process
/// be killed, the ranks get SIGTERM: they save and end.
///
/// Returns the exit code that tells most: 2, 3, 1, then 5 (also for a rank ended by a signal), 4,
/// 0. Throws UserError when a rank cannot be started.
int launch(const LaunchPlan& plan);

inline constexpr int kGraceS = 6;

}  // namespace rwkv::trainer
