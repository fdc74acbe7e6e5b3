#include "trainer/plan.h"

#include <fmt/format.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "data/base/error.h"
#include "trainer/apps/commands.h"
#include "trainer/dataset.h"
#include "trainer/exit_code.h"
#include "trainer/initial_weights.h"
#include "trainer/machine_facts.h"
#include "trainer/machine_speed.h"

namespace rwkv::apps {
namespace {

struct Arguments {
  std::string config;
  std::vector<std::string> overrides;
  std::string device;
  int64_t devices = 1;
  std::optional<double> memory_gb;
  bool json = false;
};

std::string device_names() {
  std::string names = "cpu";
  for (const trainer::Device& device : trainer::kDevices) names += fmt::format(", {}", device.name);
  return names;
}

/// Known from the configuration, or counted in the text where that is there.
int64_t vocab_size_of(const trainer::RunConfig& config) {
  if (config.model.vocab_size > 0) return config.model.vocab_size;
  if (config.data.kind == trainer::DataKind::kBytes) return 256;
  return trainer::open_dataset(config).vocab_size;
}

/// This machine as a row of the table: rates measured for a quarter of a second.
trainer::Device this_processor(const trainer::RunConfig& config) {
  const bool half = config.train.precision == trainer::Precision::kBf16 ||
                    config.train.precision == trainer::Precision::kFp16;
  const auto dtype = half ? c10::ScalarType::BFloat16 : c10::ScalarType::Float;
  const double flops = trainer::measure_products(dtype, c10::kCPU, 0.15).flops_per_s;
  trainer::Device device{.name = "this processor"};
  device.flops_16 = device.flops_tf32 = device.flops_fp32 = flops;
  device.bytes_per_s = trainer::measure_copy(int64_t{1} << 27, 0.1);
  device.memory_bytes = static_cast<double>(trainer::read_memory("/").usable_total());
  return device;
}

int plan(const Arguments& arguments) {
  trainer::RunConfig config = trainer::with_sizes_of_initial_weights(
      trainer::load_run_config(arguments.config, arguments.overrides));
  config.model.vocab_size = vocab_size_of(config);
  if (arguments.devices < 1 || arguments.devices > 65536) {
    user_error("--gpus: {} is no number of devices; use 1 or more", arguments.devices);
  }
  if (config.train.real_bsz() % arguments.devices != 0) {
    user_error(
        "--gpus: {} GPUs cannot share the {} windows of a step evenly; change train.micro_bsz or "
        "train.grad_accum",
        arguments.devices, config.train.real_bsz());
  }
  const bool gpu = arguments.device.empty() ? config.train.device == "cuda" ||
                                                  arguments.devices > 1 || arguments.memory_gb
                                            : arguments.device != "cpu";
  trainer::PlanOptions options{.devices = arguments.devices, .measured = !gpu};
  if (gpu) {
    const std::string name = arguments.device.empty() ? "a100-80" : arguments.device;
    const trainer::Device* device = trainer::find_device(name);
    if (device == nullptr) {
      user_error("--device: the table has no {}; use one of {}", printable(name, 40),
                 device_names());
    }
    options.device = *device;
  } else {
    if (arguments.devices > 1)
      user_error("--gpus: {} processors are not planned for; leave it out", arguments.devices);
    options.device = this_processor(config);
  }
  if (arguments.memory_gb) {
    if (!(*arguments.memory_gb > 0 && *arguments.memory_gb < 1e6)) {
      user_error("--gpu-memory: {} is no size; give GB, e.g. 24", *arguments.memory_gb);
    }
    options.device.memory_bytes = *arguments.memory_gb * 1e9;
  }
  fmt::print("{}", arguments.json ? plan_json(config, options) : plan_text(config, options));
  return trainer::kFinished;
}

}  // namespace

void add_plan(CLI::App& program, int& exit_code) {
  auto* command = program.add_subcommand(
      "plan", "Say what a run will need: parameters, memory, communication, time, schedule");
  auto arguments = std::make_shared<Arguments>();
  command->add_option("config", arguments->config, "YAML file, e.g. configs/pile-169m.yaml")
      ->required()
      ->type_name("CONFIG.yaml");
  command
      ->add_option("--set", arguments->overrides,
                   "Replace a setting, e.g. --set train.micro_bsz=4; may be repeated")
      ->type_name("SECTION.KEY=VALUE")
      ->take_all();
  command->add_option("--gpus", arguments->devices, "Number of GPUs")->capture_default_str();
  command->add_option(
      "--device", arguments->device,
      "One of " + device_names() + "; without it train.device says (cuda: a100-80)");
  command->add_option("--gpu-memory", arguments->memory_gb,
                      "Memory of one GPU in GB, instead of the table's");
  command->add_flag("--json", arguments->json, "Print JSON");
  command->callback([arguments, &exit_code] { exit_code = plan(*arguments); });
}

}  // namespace rwkv::apps
