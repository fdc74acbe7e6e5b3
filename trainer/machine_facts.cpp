#include "trainer/machine_facts.h"

#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <fmt/format.h>
#include <link.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/headeronly/version.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <mutex>
#include <set>
#include <thread>

#include "cuda/wkv4_cpu.h"
#include "trainer/machine_cuda.h"
#include "trainer/version.h"

namespace rwkv::trainer {
namespace {

namespace fs = std::filesystem;

int add_library(dl_phdr_info* info, size_t /*size*/, void* list) {
  if (info->dlpi_name != nullptr && *info->dlpi_name != '\0') {
    static_cast<std::vector<fs::path>*>(list)->emplace_back(info->dlpi_name);
  }
  return 0;
}

/// Paths of all shared libraries of this process.
std::vector<fs::path> loaded_libraries() {
  std::vector<fs::path> libraries;
  ::dl_iterate_phdr(add_library, &libraries);
  return libraries;
}

/// The version that the loaded library reports itself: bytes 7, 6 and 5 of the number
/// (torch/headeronly/version.h).
std::string loaded_torch_version() {
  const uint64_t version = aoti_torch_abi_version();
  return fmt::format("{}.{}.{}", version >> 56 & 0xFF, version >> 48 & 0xFF, version >> 40 & 0xFF);
}

LibTorchFacts read_libtorch() {
  LibTorchFacts torch;
  torch.compiled_version = TORCH_VERSION;
  torch.loaded_version = loaded_torch_version();
  std::set<std::string> runtimes;
  for (const fs::path& library : loaded_libraries()) {
    const std::string name = library.filename().string();
    std::error_code ignored;
    const std::string path = fs::weakly_canonical(library, ignored).string();
    if (name.starts_with("libtorch_cpu.so")) torch.path = path;
    for (const char* runtime : {"libgomp", "libomp", "libiomp5"}) {
      if (name.starts_with(std::string(runtime) + ".") ||
          name.starts_with(std::string(runtime) + "-")) {
        runtimes.insert(path);
      }
    }
  }
  torch.openmp_runtimes.assign(runtimes.begin(), runtimes.end());
  return torch;
}

int64_t allowed_processors() {
  // Large enough for any Linux; the fixed cpu_set_t ends at 1024.
  constexpr int kMost = 8192;
  cpu_set_t* set = CPU_ALLOC(kMost);
  const size_t size = CPU_ALLOC_SIZE(kMost);
  CPU_ZERO_S(size, set);
  const bool known = ::sched_getaffinity(0, size, set) == 0;
  const int64_t count = known ? CPU_COUNT_S(size, set) : ::sysconf(_SC_NPROCESSORS_ONLN);
  CPU_FREE(set);
  return count;
}

/// Different threads of a loop that gives each of them a moment of work.
int64_t threads_of_a_loop() {
  std::mutex mutex;
  std::set<std::thread::id> seen;
  ops::parallel_pieces(at::get_num_threads(), 1, [&](int64_t /*begin*/, int64_t /*end*/) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    const std::lock_guard lock(mutex);
    seen.insert(std::this_thread::get_id());
  });
  return static_cast<int64_t>(seen.size());
}

DiskFacts read_disk() {
  DiskFacts disk;
  std::error_code ignored;
  disk.folder = fs::current_path(ignored).string();
  struct statvfs status {};
  if (::statvfs(".", &status) == 0) {
    disk.free_bytes = static_cast<int64_t>(status.f_bavail) * static_cast<int64_t>(status.f_frsize);
  }
  disk.writable = ::access(".", W_OK) == 0;
  return disk;
}

std::optional<int64_t> to_limit(rlim_t value) {
  if (value == RLIM_INFINITY || value > static_cast<rlim_t>(INT64_MAX)) return std::nullopt;
  return static_cast<int64_t>(value);
}

LimitFacts read_limits() {
  LimitFacts limits;
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) == 0) {
    limits.open_files = to_limit(limit.rlim_cur);
    limits.open_files_hard = to_limit(limit.rlim_max);
  }
  if (::getrlimit(RLIMIT_FSIZE, &limit) == 0) limits.file_size = to_limit(limit.rlim_cur);
  if (::getrlimit(RLIMIT_AS, &limit) == 0) limits.address_space = to_limit(limit.rlim_cur);
  return limits;
}

std::map<std::string, std::string> read_environment() {
  std::map<std::string, std::string> set;
  for (const char* name : {"ATEN_CPU_CAPABILITY", "CUDA_VISIBLE_DEVICES", "DNNL_MAX_CPU_ISA",
                           "GOMP_CPU_AFFINITY", "LD_LIBRARY_PATH", "LD_PRELOAD", "LIBTORCH_ROOT",
                           "MKL_NUM_THREADS", "OMP_DYNAMIC", "OMP_NUM_THREADS", "OMP_PLACES",
                           "OMP_PROC_BIND", "OMP_THREAD_LIMIT", "ONEDNN_MAX_CPU_ISA"}) {
    const char* value = std::getenv(name);
    if (value != nullptr && *value != '\0') set[name] = value;
  }
  return set;
}

}  // namespace

MachineFacts collect_machine_facts() {
  MachineFacts facts;
  facts.build = build_facts();
  facts.libtorch = read_libtorch();
  facts.cuda = read_cuda();
  facts.cpu = read_cpu("/");
  facts.cpu.allowed = allowed_processors();
  facts.cpu.torch_capability = at::get_cpu_capability();
  facts.cpu.wkv_capability = ops::wkv_capability();
  facts.threads.torch_threads = at::get_num_threads();
  facts.threads.seen = threads_of_a_loop();
  facts.memory = read_memory("/");
  facts.disk = read_disk();
  facts.limits = read_limits();
  facts.environment = read_environment();
  return facts;
}

}  // namespace rwkv::trainer
