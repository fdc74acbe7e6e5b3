#include <fmt/format.h>

#include <memory>
#include <string>
#include <vector>

#include "trainer/apps/commands.h"
#include "trainer/config.h"
#include "trainer/initial_weights.h"
#include "trainer/train_as_rank.h"

namespace rwkv::apps {
namespace {

struct Arguments {
  std::string config;
  std::vector<std::string> overrides;
  trainer::TrainOptions options;
  bool print_config = false;
  bool allow_public_address = false;
};

int train(const Arguments& arguments) {
  const auto config = trainer::load_run_config(arguments.config, arguments.overrides);
  if (arguments.print_config) {
    fmt::print("{}", trainer::dump_yaml(trainer::with_sizes_of_initial_weights(config)));
    return trainer::kFinished;
  }
  return trainer::train_as_rank(config, arguments.options, arguments.allow_public_address);
}

}  // namespace

void add_train(CLI::App& program, int& exit_code) {
  auto* command =
      program.add_subcommand("train", "Train a model as a YAML file says; resumes by itself");
  auto arguments = std::make_shared<Arguments>();
  command->add_option("config", arguments->config, "YAML file, e.g. configs/quickstart.yaml")
      ->required()
      ->type_name("CONFIG.yaml");
  command
      ->add_option("--set", arguments->overrides,
                   "Replace a setting, e.g. --set train.max_steps=2000; may be repeated")
      ->type_name("SECTION.KEY=VALUE")
      ->take_all();
  command->add_flag("--print-config", arguments->print_config,
                    "Print the whole effective configuration and stop");
  command->add_flag("--profile", arguments->options.profile,
                    "Print where the time went, by part of the step and by operator, and write "
                    "train.out_dir/trace.json for Perfetto");
  command->add_flag("--from-scratch", arguments->options.from_scratch,
                    "Start over when every checkpoint in train.out_dir is damaged");
  command->add_flag("--allow-data-change", arguments->options.allow_data_change,
                    "Resume although data.path is another file than before");
  command->add_flag("--i-know", arguments->allow_public_address,
                    "With several machines: listen on a public address, where anyone can reach it");
  command->footer([] { return "\nSettings of the YAML file:\n" + trainer::describe_keys(); });
  command->callback([arguments, &exit_code] { exit_code = train(*arguments); });
}

}  // namespace rwkv::apps
