#include <fmt/format.h>

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "data/base/error.h"
#include "trainer/apps/commands.h"
#include "trainer/distributed/supervisor.h"

namespace rwkv::apps {
namespace {

int launch_ranks(trainer::LaunchPlan plan) {
  if (plan.arguments.front() != "train") {
    user_error(
        "launch: '{}' does not run on several ranks; 'rwkv launch --nproc N -- train CONFIG' does",
        printable(plan.arguments.front()));
  }
  plan.program = std::filesystem::read_symlink("/proc/self/exe");
  return trainer::launch(plan);
}

}  // namespace

void add_launch(CLI::App& program, int& exit_code) {
  auto* command = program.add_subcommand(
      "launch", "Run train on several processes of this machine that make one training");
  auto plan = std::make_shared<trainer::LaunchPlan>();
  command->add_option("--nproc", plan->nproc, "How many processes")
      ->required()
      ->check(CLI::Range(1, 1024));
  command
      ->add_option("--restarts", plan->restarts,
                   "Start all of them again, from the newest checkpoint, after one was lost; at "
                   "most that often")
      ->check(CLI::Range(0, 1000000));
  command->add_option("command", plan->arguments, "After --: train CONFIG.yaml and its options")
      ->required()
      ->type_name("train CONFIG.yaml ...");
  command->callback([plan, &exit_code] { exit_code = launch_ranks(*plan); });
}

}  // namespace rwkv::apps
