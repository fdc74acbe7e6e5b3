// What /proc and /sys tell about a Linux machine: proc(5), and the kernel's cgroup-v1 and cgroup-v2
// documentation.
#include <algorithm>
#include <charconv>
#include <cmath>
#include <fstream>
#include <set>
#include <sstream>
#include <utility>

#include "trainer/machine_facts.h"

namespace rwkv::trainer {
namespace {

namespace fs = std::filesystem;

std::string read_text(const fs::path& path) {
  std::ifstream in(path);
  return {std::istreambuf_iterator<char>(in), {}};
}

/// The number at the start of a file; nothing for "max" and for files that are not there.
std::optional<int64_t> read_number(const fs::path& path) {
  const std::string text = read_text(path);
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end == text.data()) return std::nullopt;
  return value;
}

/// The value of "KEY VALUE" or "KEY: VALUE" lines, e.g. kilobytes in /proc/meminfo.
int64_t field(const std::string& text, const std::string& key) {
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    std::string name;
    int64_t value = 0;
    if (words >> name >> value && (name == key || name == key + ":")) return value;
  }
  return 0;
}

std::string trimmed(const std::string& text) {
  const auto first = text.find_first_not_of(" \t");
  if (first == std::string::npos) return {};
  return text.substr(first, text.find_last_not_of(" \t\n") - first + 1);
}

/// The text after the colon of the first line that starts with `key`.
std::string line_of(const std::string& text, const std::string& key) {
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    const auto colon = line.find(':');
    if (colon == std::string::npos || trimmed(line.substr(0, colon)) != key) continue;
    return trimmed(line.substr(colon + 1));
  }
  return {};
}

/// Folders of this process's cgroup and all above it that exist, in the hierarchy of `controller`
/// ("" = cgroup v2). Inside of containers the path may be that of the host; then the mount itself
/// is ours.
std::vector<fs::path> cgroup_folders(const fs::path& root, const std::string& controller) {
  const fs::path mount = root / "sys/fs/cgroup" / controller;
  std::vector<fs::path> folders;
  std::istringstream lines(read_text(root / "proc/self/cgroup"));
  for (std::string line; std::getline(lines, line);) {
    const auto first = line.find(':');
    const auto second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    if (line.substr(first + 1, second - first - 1) != controller) continue;
    fs::path path = fs::path(line.substr(second + 1)).relative_path();
    for (; !path.empty(); path = path.parent_path()) folders.push_back(mount / path);
  }
  folders.push_back(mount);
  std::erase_if(folders, [](const fs::path& folder) {
    std::error_code unknown;
    return !fs::is_directory(folder, unknown);
  });
  return folders;
}

void keep_smallest(std::optional<double>& smallest, double value) {
  smallest = std::min(smallest.value_or(value), value);
}

std::optional<double> cpu_quota(const fs::path& root) {
  std::optional<double> quota;
  for (const fs::path& folder : cgroup_folders(root, "")) {
    std::istringstream words(read_text(folder / "cpu.max"));  // "QUOTA PERIOD" or "max PERIOD"
    double granted = 0;
    double period = 0;
    if (words >> granted >> period && period > 0) keep_smallest(quota, granted / period);
  }
  for (const char* controller : {"cpu,cpuacct", "cpu"}) {
    for (const fs::path& folder : cgroup_folders(root, controller)) {
      const auto granted = read_number(folder / "cpu.cfs_quota_us");
      const auto period = read_number(folder / "cpu.cfs_period_us");
      if (granted.value_or(-1) > 0 && period.value_or(0) > 0) {
        keep_smallest(quota, static_cast<double>(*granted) / static_cast<double>(*period));
      }
    }
  }
  return quota;
}

/// Takes the limit over when it leaves less than the one so far.
void keep_tightest(MemoryFacts& memory, std::optional<int64_t> limit, int64_t used,
                   int64_t droppable) {
  if (!limit || *limit >= memory.total) return;
  const int64_t needed = std::max<int64_t>(0, used - droppable);
  if (memory.limit && *memory.limit - memory.used_of_limit <= *limit - needed) return;
  memory.limit = limit;
  memory.used_of_limit = needed;
}

int64_t count_cores(const fs::path& root) {
  std::set<std::pair<int64_t, int64_t>> cores;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(root / "sys/devices/system/cpu", ignored)) {
    const auto package = read_number(entry.path() / "topology/physical_package_id");
    const auto core = read_number(entry.path() / "topology/core_id");
    if (package && core) cores.emplace(*package, *core);
  }
  return static_cast<int64_t>(cores.size());
}

}  // namespace

CpuFacts read_cpu(const fs::path& root) {
  CpuFacts cpu;
  const std::string info = read_text(root / "proc/cpuinfo");
  cpu.name = line_of(info, "model name");
  std::istringstream lines(info);
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with("processor")) ++cpu.logical;
  }
  cpu.physical = count_cores(root);
  if (cpu.physical == 0) cpu.physical = cpu.logical;
  const std::set<std::string> matter{
      "sse4_2",   "avx",      "avx2",     "fma",         "f16c",        "avx512f",
      "avx512dq", "avx512bw", "avx512vl", "avx512_vnni", "avx512_bf16", "amx_tile",
      "amx_bf16", "avx_vnni", "asimd",    "bf16",        "sve"};
  std::string flags = line_of(info, "flags");
  if (flags.empty()) flags = line_of(info, "Features");
  std::istringstream words(flags);
  for (std::string word; words >> word;) {
    if (matter.contains(word)) cpu.instruction_sets.push_back(word);
  }
  cpu.quota = cpu_quota(root);
  std::istringstream(read_text(root / "proc/loadavg")) >> cpu.load;
  return cpu;
}

MemoryFacts read_memory(const fs::path& root) {
  MemoryFacts memory;
  const std::string info = read_text(root / "proc/meminfo");
  constexpr int64_t kKilobyte = 1024;
  memory.total = field(info, "MemTotal") * kKilobyte;
  memory.available = field(info, "MemAvailable") * kKilobyte;
  memory.swap_total = field(info, "SwapTotal") * kKilobyte;
  memory.swap_used = memory.swap_total - field(info, "SwapFree") * kKilobyte;
  for (const fs::path& folder : cgroup_folders(root, "")) {
    keep_tightest(memory, read_number(folder / "memory.max"),
                  read_number(folder / "memory.current").value_or(0),
                  field(read_text(folder / "memory.stat"), "inactive_file"));
  }
  for (const fs::path& folder : cgroup_folders(root, "memory")) {
    keep_tightest(memory, read_number(folder / "memory.limit_in_bytes"),
                  read_number(folder / "memory.usage_in_bytes").value_or(0),
                  field(read_text(folder / "memory.stat"), "total_inactive_file"));
  }
  return memory;
}

bool CpuFacts::has(const std::string& instruction_set) const {
  return std::find(instruction_sets.begin(), instruction_sets.end(), instruction_set) !=
         instruction_sets.end();
}

std::string CpuFacts::best_capability() const {
  if (!has("avx2") || !has("fma")) return "DEFAULT";
  const bool avx512 = has("avx512f") && has("avx512dq") && has("avx512bw") && has("avx512vl");
  return avx512 ? "AVX512" : "AVX2";
}

int64_t CpuFacts::usable() const {
  if (!quota) return allowed;
  return std::clamp<int64_t>(static_cast<int64_t>(std::ceil(*quota)), 1,
                             std::max<int64_t>(1, allowed));
}

int64_t MemoryFacts::usable_total() const { return std::min(total, limit.value_or(total)); }

int64_t MemoryFacts::usable_available() const {
  return limit ? std::min(available, *limit - used_of_limit) : available;
}

bool BuildFacts::optimised() const {
  return type == "Release" || type == "RelWithDebInfo" || type == "MinSizeRel" ||
         flags.find("-O2") != std::string::npos || flags.find("-O3") != std::string::npos;
}

}  // namespace rwkv::trainer
