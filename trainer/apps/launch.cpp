#include <fcntl.h>
#include <fmt/format.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "data/base/error.h"
#include "trainer/apps/commands.h"
#include "trainer/distributed/supervisor.h"
#include "trainer/exit_code.h"

namespace rwkv::apps {
namespace {

/// Runs `program` with `arguments` and waits for it; `silent`: without its output, but with its
/// error messages. Its exit code.
int run_once(const std::string& program, const std::vector<std::string>& arguments, bool silent) {
  std::vector<char*> argv{const_cast<char*>(program.c_str())};
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  if (silent) posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0);
  pid_t child = 0;
  const int error = posix_spawn(&child, program.c_str(), &actions, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  if (error != 0) user_error("launch: cannot start {}: {}", program, std::strerror(error));
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (WIFEXITED(status)) return WEXITSTATUS(status);
  fmt::print(stderr, "rwkv: the check of the arguments was ended by signal {}; run it again\n",
             WTERMSIG(status));
  return trainer::kPeerLost;
}

/// What one process can find out alone is said once, before there are ranks.
std::optional<int> answer_alone(const std::string& program, std::vector<std::string> arguments) {
  for (const std::string& argument : arguments) {
    if (argument == "-h" || argument == "--help" || argument == "--print-config") {
      return run_once(program, arguments, /*silent=*/false);
    }
  }
  arguments.emplace_back("--print-config");
  const int code = run_once(program, arguments, /*silent=*/true);
  return code == trainer::kFinished ? std::nullopt : std::optional<int>(code);
}

int launch_ranks(trainer::LaunchPlan plan) {
  if (plan.arguments.front() != "train") {
    user_error(
        "launch: '{}' does not run on several ranks; 'rwkv launch --nproc N -- train CONFIG' does",
        printable(plan.arguments.front()));
  }
  plan.program = std::filesystem::read_symlink("/proc/self/exe");
  if (const auto code = answer_alone(plan.program.string(), plan.arguments)) return *code;
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
