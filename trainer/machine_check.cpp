#include "trainer/machine_check.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>

namespace rwkv::trainer {
namespace {

/// Collects findings of one topic.
class Findings {
 public:
  explicit Findings(std::vector<Finding>& all) : all_(all) {}
  void topic(const char* name) { topic_ = name; }
  void warn(std::string what, std::string mend) {
    all_.push_back({Severity::kWarning, topic_, std::move(what), std::move(mend)});
  }
  void error(std::string what, std::string mend) {
    all_.push_back({Severity::kError, topic_, std::move(what), std::move(mend)});
  }

 private:
  std::vector<Finding>& all_;
  std::string topic_;
};

double gb(int64_t bytes) { return static_cast<double>(bytes) / 1e9; }

std::string variable(const MachineFacts& facts, const std::string& name) {
  const auto found = facts.environment.find(name);
  return found == facts.environment.end() ? "" : found->second;
}

/// "OMP_NUM_THREADS=1" for the first of `names` that is set, or nothing.
std::string first_set(const MachineFacts& facts, const std::vector<std::string>& names) {
  for (const std::string& name : names) {
    if (!variable(facts, name).empty()) return name + "=" + variable(facts, name);
  }
  return {};
}

std::string name_of(const std::string& assignment) {
  return assignment.substr(0, assignment.find('='));
}

int leading_number(const std::string& text) {
  int value = 0;
  std::from_chars(text.data(), text.data() + text.size(), value);
  return value;
}

/// "2.11.0" of "2.11.0+cu130".
std::string release(const std::string& version) { return version.substr(0, version.find('+')); }

void check_build(const MachineFacts& facts, Findings& findings) {
  findings.topic("build");
  if (!facts.build.optimised()) {
    findings.warn("the program was built without optimisation and runs several times slower",
                  "scripts/build cpu, and run build/cpu/rwkv");
  }
}

void check_libtorch(const MachineFacts& facts, Findings& findings) {
  findings.topic("libtorch");
  const LibTorchFacts& torch = facts.libtorch;
  if (!torch.loaded_version.empty() &&
      release(torch.loaded_version) != release(torch.compiled_version)) {
    findings.error(
        fmt::format(
            "LibTorch {} is loaded from {}, and rwkv was compiled with {}; the two do not fit",
            torch.loaded_version, torch.path, torch.compiled_version),
        "unset LD_LIBRARY_PATH and LD_PRELOAD, or build anew with LIBTORCH_ROOT set to that one");
  }
  if (torch.openmp_runtimes.size() > 1) {
    findings.error(
        fmt::format("{} OpenMP runtimes are loaded, each with threads of its own: {}",
                    torch.openmp_runtimes.size(), fmt::join(torch.openmp_runtimes, ", ")),
        "unset LD_PRELOAD and LD_LIBRARY_PATH, or build with the LibTorch that scripts/setup "
        "fetches");
  }
}

void check_cuda(const MachineFacts& facts, Findings& findings) {
  findings.topic("cuda");
  const CudaFacts& cuda = facts.cuda;
  const bool cuda_build = !cuda.architectures.empty();
  if (!cuda_build) {
    if (!cuda.devices.empty()) {
      findings.warn(fmt::format("this machine has a GPU ({}), and this is a CPU build",
                                cuda.devices.front().name),
                    "build with CUDA (README, section Build)");
    }
    return;
  }
  if (cuda.driver.empty()) {
    findings.warn("this is a CUDA build, and there is no CUDA driver: it runs on the processor",
                  "install NVIDIA's driver where there is a GPU");
    return;
  }
  if (cuda.devices.empty()) {
    findings.warn("the CUDA driver finds no device: " + cuda.driver_error,
                  "unset CUDA_VISIBLE_DEVICES; in a container, pass the GPU through");
  }
  if (leading_number(cuda.driver) < leading_number(cuda.built_with)) {
    findings.error(fmt::format("the driver supports CUDA {}, and this build needs {}", cuda.driver,
                               cuda.built_with),
                   "install a newer driver, or build with an older CUDA toolkit");
  }
  for (const CudaDevice& device : cuda.devices) {
    if (runs_on(cuda.architectures, device.capability)) continue;
    findings.error(fmt::format("{} has compute capability {}.{}, and this build has code for {}",
                               device.name, device.capability / 10, device.capability % 10,
                               fmt::join(cuda.architectures, ", ")),
                   fmt::format("build with -DCMAKE_CUDA_ARCHITECTURES={}", device.capability));
  }
}

void check_instructions(const MachineFacts& facts, Findings& findings) {
  findings.topic("instructions");
  const CpuFacts& cpu = facts.cpu;
  const std::vector<std::string> order{"DEFAULT", "AVX2", "AVX512"};
  const auto rank = [&](const std::string& name) {
    const auto found = std::find(order.begin(), order.end(), name);
    return found - order.begin();  // names not known here are wider still
  };
  const std::string best = cpu.best_capability();
  const std::string forced = first_set(facts, {"ATEN_CPU_CAPABILITY"});
  for (const auto& [who, used] : {std::pair{"LibTorch", cpu.torch_capability},
                                  std::pair{"the WKV kernels", cpu.wkv_capability}}) {
    if (rank(used) >= rank(best)) continue;
    findings.warn(fmt::format("{} run{} {} code, and this processor has {}{}", who,
                              std::string_view(who) == "LibTorch" ? "s" : "", used, best,
                              forced.empty() ? "" : ": " + forced),
                  forced.empty()
                      ? "build with scripts/build on x86-64, and LibTorch from scripts/setup"
                      : "unset ATEN_CPU_CAPABILITY");
  }
  if (cpu.has("sse4_2") && best == "DEFAULT") {
    findings.warn("this processor has no AVX2, so training is several times slower",
                  "use a machine with AVX2 (Intel since 2013, AMD since 2015)");
  }
  const std::string isa = first_set(facts, {"ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"});
  if (!isa.empty() && !isa.ends_with("=DEFAULT") && !isa.ends_with("=ALL")) {
    findings.warn(isa + " keeps products of 16-bit numbers from faster instructions",
                  "unset " + name_of(isa));
  }
}

bool is_thread_count(const std::string& text) {
  if (text.empty() || text == "0") return false;
  return std::all_of(text.begin(), text.end(),
                     [](char c) { return (c >= '0' && c <= '9') || c == ','; });
}

void check_thread_number(const MachineFacts& facts, Findings& findings) {
  const int64_t threads = facts.threads.torch_threads;
  const int64_t usable = facts.cpu.usable();
  const std::string cause =
      first_set(facts, {"OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_THREAD_LIMIT"});
  // LibTorch takes one thread a physical core, of which two processors of a core are none.
  if (threads * 2 <= std::min(usable, std::max<int64_t>(facts.cpu.physical, 1))) {
    findings.warn(fmt::format("{} thread{} for {} processors{}", threads, threads == 1 ? "" : "s",
                              usable, cause.empty() ? "" : ": " + cause),
                  cause.empty()
                      ? fmt::format("set train.threads: {}", usable)
                      : fmt::format("unset {}, or set train.threads: {}", name_of(cause), usable));
  }
  if (usable > 0 && threads > usable) {
    findings.warn(fmt::format("{} threads share {} processor{} ({}), and wait for each other",
                              threads, usable, usable == 1 ? "" : "s",
                              facts.cpu.quota ? fmt::format("a cgroup grants the time of {:.2f}",
                                                            *facts.cpu.quota)
                                              : "affinity of the process"),
                  fmt::format("set train.threads: {0}, or OMP_NUM_THREADS={0}", usable));
  }
}

void check_threads(const MachineFacts& facts, Findings& findings) {
  findings.topic("threads");
  const std::string count = variable(facts, "OMP_NUM_THREADS");
  if (!count.empty() && !is_thread_count(count)) {
    findings.warn(fmt::format("OMP_NUM_THREADS={} is no number of threads, and is ignored", count),
                  "set it to a number, or unset it");
  }
  if (variable(facts, "OMP_DYNAMIC") == "true" || variable(facts, "OMP_DYNAMIC") == "TRUE") {
    findings.warn(
        "OMP_DYNAMIC lets the number of threads follow the load: results change in the last bits",
        "unset OMP_DYNAMIC");
  }
  check_thread_number(facts, findings);
  if (facts.threads.seen < facts.threads.torch_threads) {
    const std::string limit = first_set(facts, {"OMP_THREAD_LIMIT", "OMP_DYNAMIC"});
    findings.error(
        fmt::format("parallel loops run on {} of {} threads", facts.threads.seen,
                    facts.threads.torch_threads),
        limit.empty() ? "build with OpenMP, as scripts/build does" : "unset " + name_of(limit));
  }
}

void check_memory(const MachineFacts& facts, Findings& findings) {
  findings.topic("memory");
  const MemoryFacts& memory = facts.memory;
  const char* where = memory.limit ? " (limit of a cgroup)" : "";
  if (gb(memory.usable_total()) < 2) {
    findings.error(
        fmt::format("{:.1f} GB of memory{}; LibTorch and a small model need 2",
                    gb(memory.usable_total()), where),
        memory.limit ? "raise the limit of the container or service" : "use a machine with more");
  } else if (gb(memory.usable_available()) < 1) {
    findings.error(
        fmt::format("{:.1f} GB of memory are available{}", gb(memory.usable_available()), where),
        "end other programs");
  } else if (gb(memory.usable_available()) < 2) {
    findings.warn(fmt::format("{:.1f} GB of memory are available{}: enough for small models",
                              gb(memory.usable_available()), where),
                  "end other programs");
  }
  if (memory.swap_used > memory.total / 10) {
    findings.warn(fmt::format("{:.1f} GB lie in swap; a model there trains a hundred times slower",
                              gb(memory.swap_used)),
                  "end other programs, then swapoff -a && swapon -a");
  }
}

void check_disk(const MachineFacts& facts, Findings& findings) {
  findings.topic("disk");
  const DiskFacts& disk = facts.disk;
  const std::string what =
      fmt::format("{:.1f} GB are free in {}", gb(disk.free_bytes), disk.folder);
  const std::string mend = "free space, or set train.out_dir to another disk";
  if (gb(disk.free_bytes) < 0.5) {
    findings.error(what + ": checkpoints will fail", mend);
  } else if (gb(disk.free_bytes) < 3) {
    findings.warn(
        what + "; a checkpoint takes 12 bytes a parameter, and up to four lie there at a time",
        mend);
  }
  if (!disk.writable) {
    findings.warn(disk.folder + " cannot be written", "set train.out_dir to a folder that can");
  }
}

void check_limits(const MachineFacts& facts, Findings& findings) {
  findings.topic("limits");
  const LimitFacts& limits = facts.limits;
  if (limits.open_files.value_or(1024) < 256) {
    findings.error(
        fmt::format("{} open files are allowed; data, checkpoints and libraries need 256",
                    *limits.open_files),
        "ulimit -n 1024");
  }
  if (limits.file_size && gb(*limits.file_size) < 1) {
    findings.error(
        fmt::format("files may grow to {:.2f} GB: checkpoints will fail", gb(*limits.file_size)),
        "ulimit -f unlimited");
  }
  if (limits.address_space && gb(*limits.address_space) < 16) {
    findings.warn(fmt::format("{:.1f} GB of address space; mapping data and LibTorch take several",
                              gb(*limits.address_space)),
                  "ulimit -v unlimited");
  }
}

void check_speed(const MachineFacts& facts, Findings& findings) {
  findings.topic("speed");
  // At rest a machine's load is near zero; ours has not begun yet when it is read.
  if (facts.cpu.load > 0.5 * static_cast<double>(std::max<int64_t>(facts.cpu.logical, 1))) {
    findings.warn(fmt::format("other programs keep {:.1f} of {} processors busy", facts.cpu.load,
                              facts.cpu.logical),
                  "wait for them, or expect slower training");
  }
  if (!facts.speed) return;
  const SpeedFacts& speed = *facts.speed;
  if (facts.threads.torch_threads > 1 && speed.fp32_all < 1.3 * speed.fp32_one) {
    findings.warn(fmt::format("{} threads multiply only {:.1f} times as fast as one",
                              facts.threads.torch_threads, speed.fp32_all / speed.fp32_one),
                  "end other programs, or set train.threads lower");
  }
  if (speed.bf16_all < 0.9 * speed.fp32_all) {
    findings.warn(fmt::format("bf16 products reach {:.0f} GFLOP/s, fp32 {:.0f}",
                              speed.bf16_all / 1e9, speed.fp32_all / 1e9),
                  "train in fp32 on this processor");
  }
}

}  // namespace

bool runs_on(const std::vector<std::string>& architectures, int capability) {
  return std::any_of(architectures.begin(), architectures.end(), [&](const std::string& text) {
    const int built = leading_number(text);
    if (built == 0 || built > capability) return false;
    const auto suffix = text.find_first_not_of("0123456789");
    if (suffix != std::string::npos && text[suffix] == 'a') return built == capability;
    const bool machine_code = !text.ends_with("-virtual");
    const bool intermediate_code = !text.ends_with("-real");
    return intermediate_code || (machine_code && built / 10 == capability / 10);
  });
}

std::vector<Finding> check_machine(const MachineFacts& facts) {
  std::vector<Finding> all;
  Findings findings(all);
  check_build(facts, findings);
  check_libtorch(facts, findings);
  check_cuda(facts, findings);
  check_instructions(facts, findings);
  check_threads(facts, findings);
  check_memory(facts, findings);
  check_disk(facts, findings);
  check_limits(facts, findings);
  check_speed(facts, findings);
  return all;
}

}  // namespace rwkv::trainer
