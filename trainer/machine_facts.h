#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace rwkv::trainer {

/// How this program was built.
struct BuildFacts {
  std::string version;   // as `rwkv --version`
  std::string compiler;  // "GNU 12.2.0"
  std::string type;      // CMAKE_BUILD_TYPE
  std::string flags;     // of C++, as CMake gave them, sanitizers included
  [[nodiscard]] bool optimised() const;
};

struct LibTorchFacts {
  std::string compiled_version;              // of the headers
  std::string loaded_version;                // of the library that runs
  std::string path;                          // of libtorch_cpu.so
  std::vector<std::string> openmp_runtimes;  // paths of all that are loaded
};

struct CudaDevice {
  std::string name;
  int capability = 0;  // 80 for 8.0
};

struct CudaFacts {
  std::vector<std::string> architectures;  // in this binary, e.g. "80"; none in a CPU build
  std::string built_with;                  // version of nvcc; empty in a CPU build
  std::string driver;        // version that the driver supports, "13.0"; empty = no driver
  std::string driver_error;  // why the driver finds no device
  std::vector<CudaDevice> devices;
  std::string toolkit;  // folder of nvcc; empty = none found
  std::string toolkit_version;
};

struct CpuFacts {
  std::string name;
  int64_t logical = 0;
  int64_t physical = 0;
  int64_t allowed = 0;          // by the affinity of this process
  std::optional<double> quota;  // of cgroups, in processors
  double load = 0;              // mean number of running processes in the last minute
  std::vector<std::string>
      instruction_sets;          // those that matter here, by the names of /proc/cpuinfo
  std::string torch_capability;  // what LibTorch's kernels use: "AVX512", "AVX2", "DEFAULT"
  std::string wkv_capability;    // what ours use, in the same words

  [[nodiscard]] bool has(const std::string& instruction_set) const;
  /// The widest of LibTorch's names that this processor runs.
  [[nodiscard]] std::string best_capability() const;
  /// Threads that can run at once: by affinity, and by cgroups rounded up.
  [[nodiscard]] int64_t usable() const;
};

struct ThreadFacts {
  int64_t torch_threads = 0;  // at::get_num_threads()
  int64_t seen = 0;           // different threads that a parallel loop of ours ran on
};

struct MemoryFacts {
  int64_t total = 0;  // bytes, all of them
  int64_t available = 0;
  std::optional<int64_t> limit;  // of cgroups
  int64_t used_of_limit = 0;     // without what the kernel can drop
  int64_t swap_total = 0;
  int64_t swap_used = 0;

  [[nodiscard]] int64_t usable_total() const;
  [[nodiscard]] int64_t usable_available() const;
};

struct DiskFacts {
  std::string folder;
  int64_t free_bytes = 0;
  bool writable = false;
};

/// Limits of the process (setrlimit); none = unlimited.
struct LimitFacts {
  std::optional<int64_t> open_files, open_files_hard;
  std::optional<int64_t> file_size;      // bytes
  std::optional<int64_t> address_space;  // bytes
};

/// Measured; see trainer/machine_speed.h. Products in operations per second, copies in bytes (read
/// and written).
struct SpeedFacts {
  double fp32_one = 0, fp32_all = 0;
  double bf16_one = 0, bf16_all = 0;
  double copy_one = 0, copy_all = 0;
};

/// Everything that `rwkv doctor` knows about a machine.
struct MachineFacts {
  BuildFacts build;
  LibTorchFacts libtorch;
  CudaFacts cuda;
  CpuFacts cpu;
  ThreadFacts threads;
  MemoryFacts memory;
  DiskFacts disk;
  LimitFacts limits;
  std::map<std::string, std::string> environment;  // those variables that are set and matter
  std::optional<SpeedFacts> speed;
};

/// Collects all but the speed. Nothing needs to be there: what is missing stays empty or zero.
MachineFacts collect_machine_facts();

/// The parts that are read from /proc and /sys below `root`; tests give a folder of their own.
CpuFacts read_cpu(const std::filesystem::path& root);
MemoryFacts read_memory(const std::filesystem::path& root);

}  // namespace rwkv::trainer
