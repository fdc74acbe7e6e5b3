// The few functions of the CUDA driver that are called stand in CUDA's "Driver API" reference; all
// take and return C types.
#include "trainer/machine_cuda.h"

#include <dlfcn.h>
#include <fmt/format.h>

#include <array>
#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "trainer/version.h"

namespace rwkv::trainer {
namespace {

namespace fs = std::filesystem;

/// The driver's library, closed at the end.
class Driver {
 public:
  Driver() : library_(::dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL)) {}
  Driver(const Driver&) = delete;
  Driver& operator=(const Driver&) = delete;
  ~Driver() {
    if (library_ != nullptr) ::dlclose(library_);
  }
  [[nodiscard]] bool there() const { return library_ != nullptr; }

  /// Calls NAME(arguments...); -1 when the library has no such function, else CUresult, 0 being
  /// success.
  template <typename... Arguments>
  int call(const char* name, Arguments... arguments) const {
    using Function = int (*)(Arguments...);
    const auto function = reinterpret_cast<Function>(::dlsym(library_, name));
    return function == nullptr ? -1 : function(arguments...);
  }

 private:
  void* library_;
};

std::string error_text(const Driver& driver, int code) {
  const char* text = nullptr;
  driver.call("cuGetErrorString", code, &text);
  return text == nullptr ? fmt::format("CUDA error {}", code) : std::string(text);
}

CudaDevice read_device(const Driver& driver, int index) {
  constexpr int kMajor = 75;  // CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR
  constexpr int kMinor = 76;
  CudaDevice device;
  int handle = 0;
  std::array<char, 256> name{};
  int major = 0;
  int minor = 0;
  driver.call("cuDeviceGet", &handle, index);
  driver.call("cuDeviceGetName", name.data(), static_cast<int>(name.size()) - 1, handle);
  driver.call("cuDeviceGetAttribute", &major, kMajor, handle);
  driver.call("cuDeviceGetAttribute", &minor, kMinor, handle);
  device.name = name.data();
  device.capability = 10 * major + minor;
  return device;
}

void read_driver(CudaFacts& cuda) {
  const Driver driver;
  if (!driver.there()) return;
  int version = 0;
  driver.call("cuDriverGetVersion", &version);
  cuda.driver = fmt::format("{}.{}", version / 1000, version % 1000 / 10);
  const int started = driver.call("cuInit", 0U);
  if (started != 0) {
    cuda.driver_error = error_text(driver, started);
    return;
  }
  int count = 0;
  driver.call("cuDeviceGetCount", &count);
  for (int i = 0; i < count; ++i) cuda.devices.push_back(read_device(driver, i));
  if (count == 0) cuda.driver_error = "it has no devices";
}

/// The folder that holds bin/nvcc, or nothing.
fs::path find_toolkit() {
  std::vector<fs::path> candidates;
  for (const char* variable : {"CUDA_HOME", "CUDA_PATH"}) {
    if (const char* value = std::getenv(variable)) candidates.emplace_back(value);
  }
  if (const char* path = std::getenv("PATH")) {
    std::istringstream folders(path);
    for (std::string folder; std::getline(folders, folder, ':');) {
      if (!folder.empty()) candidates.push_back(fs::path(folder).parent_path());
    }
  }
  candidates.emplace_back("/usr/local/cuda");
  std::error_code ignored;
  for (const fs::path& candidate : candidates) {
    if (fs::exists(candidate / "bin/nvcc", ignored)) return candidate;
  }
  return {};
}

/// From the version.json of NVIDIA's installers, or else CUDA_VERSION of cuda.h.
std::string toolkit_version(const fs::path& toolkit) {
  std::ifstream in(toolkit / "version.json");
  const auto json = nlohmann::json::parse(in, nullptr, /*allow_exceptions=*/false);
  const nlohmann::json::json_pointer pointer("/cuda/version");
  if (!json.is_discarded() && json.contains(pointer) && json[pointer].is_string()) {
    return json[pointer].get<std::string>();
  }
  std::ifstream header(toolkit / "include/cuda.h");
  const std::string start = "#define CUDA_VERSION ";
  for (std::string line; std::getline(header, line);) {
    if (!line.starts_with(start)) continue;
    const int64_t version = std::strtol(line.c_str() + start.size(), nullptr, 10);
    return fmt::format("{}.{}", version / 1000, version % 1000 / 10);
  }
  return "unknown version";
}

}  // namespace

CudaFacts read_cuda() {
  CudaFacts cuda;
  cuda.architectures = cuda_architectures();
  cuda.built_with = cuda_compiler_version();
  read_driver(cuda);
  const fs::path toolkit = find_toolkit();
  if (!toolkit.empty()) {
    cuda.toolkit = toolkit.string();
    cuda.toolkit_version = toolkit_version(toolkit);
  }
  return cuda;
}

}  // namespace rwkv::trainer
