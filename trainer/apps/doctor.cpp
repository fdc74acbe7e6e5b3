#include <fmt/format.h>
#include <fmt/ranges.h>
#include <torch/torch.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "data/base/error.h"
#include "trainer/apps/commands.h"
#include "trainer/exit_code.h"
#include "trainer/machine_check.h"
#include "trainer/machine_facts.h"
#include "trainer/machine_speed.h"

namespace rwkv::apps {
namespace {

using trainer::Finding;
using trainer::MachineFacts;
using trainer::Severity;
using trainer::SpeedFacts;
using Json = nlohmann::ordered_json;

struct Arguments {
  bool json = false;
  bool no_measure = false;
};

/// Rewrites one line of the terminal; elsewhere it says once what takes the time.
void show_progress(const char* what, int number, int all) {
  if (::isatty(STDERR_FILENO) == 1) {
    fmt::print(stderr, "\rmeasuring {} ({} of {})\x1b[K", what, number, all);
  } else if (number == 1) {
    fmt::print(stderr, "measuring for two seconds; --no-measure leaves it out\n");
  }
}

SpeedFacts measure() {
  constexpr double kProductS = 0.3;
  constexpr double kCopyS = 0.25;
  constexpr int64_t kCopyBytes = 128'000'000;  // above the caches of most processors
  const int threads = at::get_num_threads();
  const auto products = [](at::ScalarType type) {
    return trainer::measure_products(type, at::kCPU, kProductS).flops_per_s;
  };
  SpeedFacts speed;
  show_progress("fp32 products", 1, 6);
  speed.fp32_all = products(at::kFloat);
  show_progress("bf16 products", 2, 6);
  speed.bf16_all = products(at::kBFloat16);
  show_progress("copies", 3, 6);
  speed.copy_all = trainer::measure_copy(kCopyBytes, kCopyS);
  at::set_num_threads(1);
  show_progress("fp32 products on one thread", 4, 6);
  speed.fp32_one = products(at::kFloat);
  show_progress("bf16 products on one thread", 5, 6);
  speed.bf16_one = products(at::kBFloat16);
  show_progress("copies on one thread", 6, 6);
  speed.copy_one = trainer::measure_copy(kCopyBytes, kCopyS);
  at::set_num_threads(threads);
  if (::isatty(STDERR_FILENO) == 1) fmt::print(stderr, "\r\x1b[K");
  return speed;
}

double gb(int64_t bytes) { return static_cast<double>(bytes) / 1e9; }

std::string or_else(const std::string& text, const char* otherwise) {
  return text.empty() ? otherwise : printable(text);
}

std::string limit_text(const std::optional<int64_t>& bytes) {
  return bytes ? fmt::format("{:.1f} GB", gb(*bytes)) : "unlimited";
}

std::string cuda_text(const trainer::CudaFacts& cuda) {
  std::string devices;
  for (const trainer::CudaDevice& device : cuda.devices) {
    devices += fmt::format("; {} (compute capability {}.{})", printable(device.name),
                           device.capability / 10, device.capability % 10);
  }
  return fmt::format(
      "architectures in this binary: {}; driver: {}{}; toolkit: {}",
      cuda.architectures.empty() ? "none (CPU build)"
                                 : fmt::format("{}", fmt::join(cuda.architectures, ", ")),
      cuda.driver.empty() ? "not there" : "for CUDA " + cuda.driver,
      cuda.driver_error.empty() ? devices : "; " + cuda.driver_error,
      cuda.toolkit.empty() ? "not there" : cuda.toolkit_version + " in " + printable(cuda.toolkit));
}

void print_row(const char* name, const std::string& text) { fmt::print("{:<13} {}\n", name, text); }

void print_cpu(const MachineFacts& facts) {
  const trainer::CpuFacts& cpu = facts.cpu;
  print_row("processor",
            fmt::format("{}: {} logical, {} physical; allowed {}; cgroup {}; load {:.1f}",
                        or_else(cpu.name, "unknown"), cpu.logical, cpu.physical, cpu.allowed,
                        cpu.quota ? fmt::format("grants {:.2f}", *cpu.quota) : "without limit",
                        cpu.load));
  print_row("instructions", fmt::format("{}; LibTorch uses {}, the WKV kernels {}",
                                        fmt::join(cpu.instruction_sets, " "), cpu.torch_capability,
                                        cpu.wkv_capability));
  const auto set = facts.environment.find("OMP_NUM_THREADS");
  print_row(
      "threads",
      fmt::format("{} (OMP_NUM_THREADS {}); parallel loops run on {}", facts.threads.torch_threads,
                  set == facts.environment.end() ? "not set" : "= " + printable(set->second),
                  facts.threads.seen));
}

void print_speed(const SpeedFacts& speed, int64_t threads) {
  print_row("speed",
            fmt::format("one thread: fp32 products {:.0f} GFLOP/s, bf16 {:.0f}, copy {:.1f} GB/s",
                        speed.fp32_one / 1e9, speed.bf16_one / 1e9, speed.copy_one / 1e9));
  print_row("",
            fmt::format("{} threads: fp32 products {:.0f} GFLOP/s, bf16 {:.0f}, copy {:.1f} GB/s",
                        threads, speed.fp32_all / 1e9, speed.bf16_all / 1e9, speed.copy_all / 1e9));
}

void print_facts(const MachineFacts& facts) {
  print_row("rwkv", facts.build.version);
  print_row("build",
            fmt::format("{}, {} {}", facts.build.compiler, facts.build.type, facts.build.flags));
  print_row("libtorch", fmt::format("{} from {}", facts.libtorch.loaded_version,
                                    or_else(facts.libtorch.path, "an unknown place")));
  print_row("", fmt::format("OpenMP: {}", fmt::join(facts.libtorch.openmp_runtimes, ", ")));
  print_row("cuda", cuda_text(facts.cuda));
  print_cpu(facts);
  const trainer::MemoryFacts& memory = facts.memory;
  print_row("memory",
            fmt::format("{:.1f} GB, {:.1f} available; cgroup {}; swap {:.1f} of {:.1f} GB used",
                        gb(memory.total), gb(memory.available),
                        memory.limit ? fmt::format("limits to {:.1f} GB, {:.1f} used",
                                                   gb(*memory.limit), gb(memory.used_of_limit))
                                     : "without limit",
                        gb(memory.swap_used), gb(memory.swap_total)));
  print_row("disk", fmt::format("{:.1f} GB free in {}", gb(facts.disk.free_bytes),
                                printable(facts.disk.folder)));
  print_row("limits",
            fmt::format(
                "open files {}; file size {}; address space {}",
                facts.limits.open_files ? fmt::format("{}", *facts.limits.open_files) : "unlimited",
                limit_text(facts.limits.file_size), limit_text(facts.limits.address_space)));
  if (facts.speed) print_speed(*facts.speed, facts.threads.torch_threads);
}

void print_findings(const std::vector<Finding>& findings) {
  for (const Finding& finding : findings) {
    fmt::print("\n{}: {}: {}\n    mend: {}\n",
               finding.severity == Severity::kError ? "ERROR" : "warning", finding.topic,
               printable(finding.what, 1000), finding.mend);
  }
  if (findings.empty()) fmt::print("\nnothing is wrong\n");
}

template <typename T>
Json or_null(const std::optional<T>& value) {
  return value ? Json(*value) : Json(nullptr);
}

Json to_json(const trainer::CudaFacts& cuda) {
  Json devices = Json::array();
  for (const trainer::CudaDevice& device : cuda.devices) {
    devices.push_back({{"name", device.name}, {"compute_capability", device.capability}});
  }
  return {{"architectures", cuda.architectures},
          {"built_with", cuda.built_with},
          {"driver", cuda.driver},
          {"driver_error", cuda.driver_error},
          {"devices", devices},
          {"toolkit", cuda.toolkit},
          {"toolkit_version", cuda.toolkit_version}};
}

Json to_json(const trainer::CpuFacts& cpu) {
  return {{"name", cpu.name},
          {"logical", cpu.logical},
          {"physical", cpu.physical},
          {"allowed", cpu.allowed},
          {"cgroup_quota", or_null(cpu.quota)},
          {"load", cpu.load},
          {"instruction_sets", cpu.instruction_sets},
          {"torch_capability", cpu.torch_capability},
          {"wkv_capability", cpu.wkv_capability}};
}

Json to_json(const MachineFacts& facts, const std::vector<Finding>& findings) {
  Json json;
  json["build"] = {{"version", facts.build.version},
                   {"compiler", facts.build.compiler},
                   {"type", facts.build.type},
                   {"flags", facts.build.flags}};
  json["libtorch"] = {{"compiled_version", facts.libtorch.compiled_version},
                      {"loaded_version", facts.libtorch.loaded_version},
                      {"path", facts.libtorch.path},
                      {"openmp_runtimes", facts.libtorch.openmp_runtimes}};
  json["cuda"] = to_json(facts.cuda);
  json["cpu"] = to_json(facts.cpu);
  json["threads"] = {{"torch_threads", facts.threads.torch_threads}, {"seen", facts.threads.seen}};
  json["environment"] = facts.environment;
  json["memory"] = {{"total_bytes", facts.memory.total},
                    {"available_bytes", facts.memory.available},
                    {"cgroup_limit_bytes", or_null(facts.memory.limit)},
                    {"cgroup_used_bytes", facts.memory.used_of_limit},
                    {"swap_total_bytes", facts.memory.swap_total},
                    {"swap_used_bytes", facts.memory.swap_used}};
  json["disk"] = {{"folder", facts.disk.folder},
                  {"free_bytes", facts.disk.free_bytes},
                  {"writable", facts.disk.writable}};
  json["limits"] = {{"open_files", or_null(facts.limits.open_files)},
                    {"open_files_hard", or_null(facts.limits.open_files_hard)},
                    {"file_size_bytes", or_null(facts.limits.file_size)},
                    {"address_space_bytes", or_null(facts.limits.address_space)}};
  json["speed"] = nullptr;
  if (facts.speed) {
    const SpeedFacts& s = *facts.speed;
    json["speed"] = {
        {"fp32_flops_per_s", {{"one_thread", s.fp32_one}, {"all_threads", s.fp32_all}}},
        {"bf16_flops_per_s", {{"one_thread", s.bf16_one}, {"all_threads", s.bf16_all}}},
        {"copy_bytes_per_s", {{"one_thread", s.copy_one}, {"all_threads", s.copy_all}}}};
  }
  json["findings"] = Json::array();
  for (const Finding& finding : findings) {
    json["findings"].push_back(
        {{"severity", finding.severity == Severity::kError ? "error" : "warning"},
         {"topic", finding.topic},
         {"what", finding.what},
         {"mend", finding.mend}});
  }
  return json;
}

int doctor(const Arguments& arguments) {
  MachineFacts facts = trainer::collect_machine_facts();
  if (!arguments.no_measure) facts.speed = measure();
  const std::vector<Finding> findings = trainer::check_machine(facts);
  if (arguments.json) {
    // File names and variables may hold any bytes.
    fmt::print("{}\n",
               to_json(facts, findings).dump(2, ' ', false, Json::error_handler_t::replace));
  } else {
    print_facts(facts);
    print_findings(findings);
  }
  const auto errors = std::count_if(findings.begin(), findings.end(), [](const Finding& finding) {
    return finding.severity == Severity::kError;
  });
  if (errors == 0) return trainer::kFinished;
  std::fflush(stdout);
  user_error("doctor: {} thing{} must be mended; see above", errors, errors == 1 ? "" : "s");
}

}  // namespace

void add_doctor(CLI::App& program, int& exit_code) {
  auto* command = program.add_subcommand(
      "doctor", "Show how this program was built and what the machine offers, and what to mend");
  auto arguments = std::make_shared<Arguments>();
  command->add_flag("--json", arguments->json, "Print everything as one JSON object");
  command->add_flag("--no-measure", arguments->no_measure,
                    "Leave out the speed of products and copies (two seconds)");
  command->callback([arguments, &exit_code] { exit_code = doctor(*arguments); });
}

}  // namespace rwkv::apps
