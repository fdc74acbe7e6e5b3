#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

namespace rwkv::trainer {

/// Where a process stands among those that train together, as whatever started it says. Ranks count
/// from 0. The default is one process alone.
struct RankEnvironment {
  int64_t rank = 0;
  int64_t world_size = 1;
  std::optional<int64_t> local_rank;  // on its machine; unset: counted when the ranks meet
  std::string master_addr;            // machine of rank 0, by name or number
  uint16_t master_port = 0;
  bool store_is_hosted = false;  // the launcher listens at master_port, not rank 0
  int64_t attempt = 0;           // how often the launcher has restarted the group
  std::string started_by;        // for messages, e.g. "Slurm"
};

/// Reads the variables of, in this order:
///   torchrun and `rwkv launch`  RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT,
///                               TORCHELASTIC_USE_AGENT_STORE, TORCHELASTIC_RESTART_COUNT
///   Open MPI                    OMPI_COMM_WORLD_RANK, _SIZE, _LOCAL_RANK, _LOCAL_SIZE
///   Slurm (inside srun)         SLURM_PROCID, SLURM_STEP_NUM_TASKS, SLURM_LOCALID,
///                               SLURM_STEP_NODELIST, SLURM_STEP_NUM_NODES, SLURM_JOB_ID
/// MASTER_ADDR and MASTER_PORT count with all three. Without them: the first machine of Slurm's
/// list, 127.0.0.1 where all ranks are on one machine, port 29500 (Slurm: 15000 + job id mod
/// 10000). `lookup` gives a variable's value, or nothing. Throws UserError for values that are
/// incomplete or wrong.
RankEnvironment read_environment(
    const std::function<std::optional<std::string>(const std::string&)>& lookup);

/// read_environment() of this process.
RankEnvironment environment_of_this_process();

/// The first name of a Slurm list: "node[07-09,12],gpu1" -> "node07".
std::string first_host(std::string_view nodelist);

}  // namespace rwkv::trainer
