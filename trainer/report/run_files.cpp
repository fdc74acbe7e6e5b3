#include "trainer/report/run_files.h"

#include <sys/utsname.h>
#include <unistd.h>

#include <ctime>
#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>

#include "data/base/error.h"

namespace rwkv::report {
namespace {

using nlohmann::ordered_json;

std::string dump(const ordered_json& entry) {
  return entry.dump(-1, ' ', false, ordered_json::error_handler_t::replace);
}

/// What follows the colon of the first line `name : value` of a file in /proc.
std::string proc_value(const char* file, std::string_view name) {
  std::ifstream in(file);
  for (std::string line; std::getline(in, line);) {
    const size_t colon = line.find(':');
    if (!line.starts_with(name) || colon == std::string::npos) continue;
    const size_t begin = line.find_first_not_of(" \t", colon + 1);
    return begin == std::string::npos ? "" : line.substr(begin);
  }
  return {};
}

}  // namespace

Machine this_machine() {
  Machine machine;
  machine.processor = proc_value("/proc/cpuinfo", "model name");
  machine.cores = std::thread::hardware_concurrency();
  machine.memory_bytes = std::max<int64_t>(0, ::sysconf(_SC_PHYS_PAGES)) *
                         std::max<int64_t>(0, ::sysconf(_SC_PAGESIZE));
  utsname names{};
  if (::uname(&names) == 0) {
    machine.system = fmt::format("{} {} {}", names.sysname, names.release, names.machine);
  }
  return machine;
}

std::string to_json_line(const SessionStart& session, const std::string& time) {
  ordered_json entry = {{"event", "start"},
                        {"time", time},
                        {"step", session.step},
                        {"version", session.version},
                        {"processor", session.machine.processor},
                        {"cores", session.machine.cores},
                        {"threads", session.threads},
                        {"memory_bytes", session.machine.memory_bytes},
                        {"system", session.machine.system},
                        {"device", session.device},
                        {"parameters", session.parameters},
                        {"training_tokens", session.training_tokens}};
  entry["config"] = ordered_json::object();
  for (const auto& [key, value] : session.config) entry["config"][key] = value;
  return dump(entry);
}

std::string session_end_line(int64_t step, std::string_view status, const std::string& time) {
  return dump({{"event", "end"}, {"time", time}, {"step", step}, {"status", status}});
}

std::string to_json_line(const SampleText& sample) {
  return dump({{"step", sample.step}, {"prompt", sample.prompt}, {"text", sample.text}});
}

void append_session_line(const std::filesystem::path& folder, std::string_view line) {
  const std::filesystem::path path = folder / kSessionsFile;
  // A line feed first where a crash cut the last line off.
  bool cut_off = false;
  if (std::ifstream in(path, std::ios::binary | std::ios::ate); in && in.tellg() > 0) {
    in.seekg(-1, std::ios::end);
    cut_off = in.get() != '\n';
  }
  std::ofstream out(path, std::ios::app);
  out << (cut_off ? "\n" : "") << line << '\n' << std::flush;
  if (!out) user_error("cannot write {}; free space", printable(path.string()));
}

std::string utc_now() {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  ::gmtime_r(&now, &parts);
  return fmt::format("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z", parts.tm_year + 1900, parts.tm_mon + 1,
                     parts.tm_mday, parts.tm_hour, parts.tm_min, parts.tm_sec);
}

}  // namespace rwkv::report
