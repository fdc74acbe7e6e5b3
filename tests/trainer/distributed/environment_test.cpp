#include "trainer/distributed/environment.h"

#include <gtest/gtest.h>

#include <map>

#include "data/base/error.h"

namespace rwkv::trainer {
namespace {

RankEnvironment read(const std::map<std::string, std::string>& variables) {
  return read_environment([&](const std::string& name) -> std::optional<std::string> {
    const auto found = variables.find(name);
    if (found == variables.end()) return std::nullopt;
    return found->second;
  });
}

std::string error_of(const std::map<std::string, std::string>& variables) {
  try {
    read(variables);
  } catch (const UserError& error) {
    return error.what();
  }
  return "no error";
}

TEST(Environment, WithoutALauncherAProcessIsAlone) {
  const RankEnvironment alone = read({{"HOME", "/"}});
  EXPECT_EQ(alone.world_size, 1);
  EXPECT_EQ(alone.rank, 0);
  EXPECT_EQ(alone.started_by, "");
}

TEST(Environment, Torchrun) {
  const RankEnvironment e = read({{"RANK", "5"},
                                  {"WORLD_SIZE", "8"},
                                  {"LOCAL_RANK", "1"},
                                  {"MASTER_ADDR", "node1"},
                                  {"MASTER_PORT", "2345"},
                                  {"TORCHELASTIC_USE_AGENT_STORE", "True"},
                                  {"TORCHELASTIC_RESTART_COUNT", "2"}});
  EXPECT_EQ(e.rank, 5);
  EXPECT_EQ(e.world_size, 8);
  EXPECT_EQ(e.local_rank, 1);
  EXPECT_EQ(e.master_addr, "node1");
  EXPECT_EQ(e.master_port, 2345);
  EXPECT_TRUE(e.store_is_hosted);
  EXPECT_EQ(e.attempt, 2);
}

TEST(Environment, OpenMpiOnOneMachineNeedsNothingElse) {
  std::map<std::string, std::string> variables = {{"OMPI_COMM_WORLD_RANK", "1"},
                                                  {"OMPI_COMM_WORLD_SIZE", "2"},
                                                  {"OMPI_COMM_WORLD_LOCAL_RANK", "1"},
                                                  {"OMPI_COMM_WORLD_LOCAL_SIZE", "2"}};
  const RankEnvironment e = read(variables);
  EXPECT_EQ(e.rank, 1);
  EXPECT_EQ(e.master_addr, "127.0.0.1");
  EXPECT_EQ(e.master_port, 29500);
  EXPECT_FALSE(e.store_is_hosted);
  variables["OMPI_COMM_WORLD_LOCAL_SIZE"] = "1";
  EXPECT_NE(error_of(variables).find("MASTER_ADDR: missing; Open MPI started 2 ranks"),
            std::string::npos);
}

TEST(Environment, SlurmTakesTheFirstNodeAndAPortOfTheJob) {
  const RankEnvironment e = read({{"SLURM_PROCID", "3"},
                                  {"SLURM_STEP_NUM_TASKS", "4"},
                                  {"SLURM_LOCALID", "1"},
                                  {"SLURM_STEP_NODELIST", "gpu[07-08]"},
                                  {"SLURM_JOB_ID", "1234567"}});
  EXPECT_EQ(e.rank, 3);
  EXPECT_EQ(e.world_size, 4);
  EXPECT_EQ(e.local_rank, 1);
  EXPECT_EQ(e.master_addr, "gpu07");
  EXPECT_EQ(e.master_port, 15000 + 4567);
}

TEST(Environment, ASlurmBatchScriptIsNoStep) {
  EXPECT_EQ(read({{"SLURM_PROCID", "0"}, {"SLURM_NTASKS", "4"}}).world_size, 1);
}

TEST(Environment, MistakesNameTheVariable) {
  EXPECT_NE(error_of({{"RANK", "0"}}).find("RANK and WORLD_SIZE"), std::string::npos);
  EXPECT_NE(error_of({{"RANK", "2"}, {"WORLD_SIZE", "2"}}).find("RANK: '2' is no number in 0..1"),
            std::string::npos);
  EXPECT_NE(error_of({{"RANK", "x"}, {"WORLD_SIZE", "2"}}).find("RANK: 'x'"), std::string::npos);
  EXPECT_NE(error_of({{"RANK", "0"}, {"WORLD_SIZE", "2"}}).find("MASTER_ADDR: missing"),
            std::string::npos);
  EXPECT_NE(
      error_of({{"RANK", "0"}, {"WORLD_SIZE", "2"}, {"MASTER_ADDR", "a"}, {"MASTER_PORT", "99999"}})
          .find("MASTER_PORT: '99999'"),
      std::string::npos);
}

TEST(Environment, FirstHost) {
  EXPECT_EQ(first_host("node7"), "node7");
  EXPECT_EQ(first_host("node7,node8"), "node7");
  EXPECT_EQ(first_host("node[07-09,12],gpu1"), "node07");
  EXPECT_EQ(first_host("node[3,5]"), "node3");
  EXPECT_EQ(first_host("node[1-2].cluster,x"), "node1.cluster");
}

}  // namespace
}  // namespace rwkv::trainer
