// Checks every golden file below RWKV_GOLDEN_DIR (values computed by the original programs) against
// our implementation. Prints file, quantity, largest difference and bound.
//
//   golden [--device cpu|cuda]
//
// With cuda, the families that have a GPU part run on the GPU and the others are skipped. Exit code
// 0 when all pass and at least one was checked, 77 when there is no GPU to run on, 1 otherwise.

#include <fmt/format.h>
#include <torch/cuda.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "tests/golden/golden.h"
#include "tests/golden/golden_tensors.h"

namespace rwkv::golden {

namespace fs = std::filesystem;

void Report::compare(const std::string& quantity, double difference, double bound) {
  lines_.push_back({quantity, std::isfinite(difference) ? difference : INFINITY, bound});
}

namespace {

/// The family of a file: the first row whose prefix and extension fit.
struct Family {
  std::string_view prefix;
  std::string_view extension;
  Checker check;  // null: not built yet, or read along with another file
  std::string_view note;
  bool has_gpu_part = false;
};

constexpr std::string_view kLater = "not built yet";
constexpr std::array kFamilies{
    Family{"binidx", ".json", check_binidx, ""},
    Family{"", ".idx", check_jsonl_pair, ""},
    Family{"", ".bin", nullptr, "read with its .idx"},
    Family{"", ".md", nullptr, "text"},
    Family{"", ".jsonl", nullptr, kLater},
    Family{"charlevel", ".json", check_charlevel, ""},
    Family{"sampler", ".json", check_sampler, ""},
    Family{"qa_mask", ".json", check_qa_mask, ""},
    Family{"lr_schedule", ".json", check_lr_schedule, ""},
    Family{"groups", ".json", check_groups, ""},
    Family{"adam", ".pth", check_adam, ""},
    Family{"l2wrap", ".pth", check_l2wrap, ""},
    Family{"loss", ".pth", check_loss, ""},
    Family{"sampling", ".json", check_sampling, ""},
    Family{"sampling", ".pth", check_early_sampling, ""},
    Family{"wkv4", ".pth", check_wkv4, "", true},
    Family{"rwkv4_init", ".pth", check_rwkv4_init, ""},
    Family{"rwkv4_tiny_att", ".pth", nullptr, kLater},
    Family{"rwkv4_qkv", ".pth", nullptr, kLater},
    Family{"rwkv4_xatt", ".pth", nullptr, kLater},
    Family{"rwkv4_rescale", ".pth", check_rescale, ""},
    Family{"rwkv4_chatrwkv", ".pth", check_chatrwkv, ""},
    Family{"rwkv4", ".pth", check_rwkv4, "", true},
};

const Family* family_of(const fs::path& file) {
  const std::string name = file.filename().string();
  for (const Family& family : kFamilies) {
    if (name.starts_with(family.prefix) && file.extension() == family.extension) return &family;
  }
  return nullptr;
}

struct Totals {
  int checked = 0;
  int skipped = 0;
  int failed = 0;
};

constexpr std::string_view kNoGpu = "no CUDA device";
constexpr int kExitNoGpu = 77;

bool lacks_gpu() { return golden_device().is_cuda() && !torch::cuda::is_available(); }

/// Why a file is not checked; empty when it is.
std::string_view reason_to_skip(const Family* family) {
  if (family == nullptr) return kLater;
  if (family->check == nullptr) return family->note;
  if (golden_device().is_cuda() && !family->has_gpu_part) return "has no GPU part";
  return lacks_gpu() ? kNoGpu : "";
}

void check_file(const fs::path& root, const fs::path& file, Totals& totals) {
  const std::string name = fs::relative(file, root).string();
  const Family* family = family_of(file);
  if (const auto reason = reason_to_skip(family); !reason.empty()) {
    fmt::print("{:<40} skipped: {}\n", name, reason);
    ++totals.skipped;
    return;
  }
  Report report;
  try {
    family->check(file, report);
  } catch (const std::exception& error) {
    fmt::print("{:<40} FAILED: {}\n", name, error.what());
    ++totals.failed;
    return;
  }
  bool passed = !report.lines().empty();
  if (!passed) fmt::print("{:<40} FAILED: nothing was compared\n", name);
  for (const Report::Line& line : report.lines()) {
    fmt::print("{:<40} {:<44} {:9.2e}  bound {:8.1e}  {}\n", name, line.quantity, line.difference,
               line.bound, line.passed() ? "ok" : "FAILED");
    passed = passed && line.passed();
  }
  ++(passed ? totals.checked : totals.failed);
}

int run() {
  const char* environment = std::getenv("RWKV_GOLDEN_DIR");
  const fs::path root = environment != nullptr ? environment : RWKV_GOLDEN_DIR_DEFAULT;
  std::vector<fs::path> files;
  for (const auto& entry : fs::recursive_directory_iterator(root)) {
    const std::string extension = entry.path().extension().string();
    const bool source = extension == ".cpp" || extension == ".h" || extension == ".txt";
    if (entry.is_regular_file() && !source) files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  Totals totals;
  for (const fs::path& file : files) check_file(root, file, totals);
  fmt::print("golden: {} files passed, {} failed, {} skipped in {}\n", totals.checked,
             totals.failed, totals.skipped, root.string());
  if (lacks_gpu()) {
    fmt::print("golden: nothing was checked, skipped: {}\n", kNoGpu);
    return kExitNoGpu;
  }
  if (totals.checked + totals.failed == 0) fmt::print("golden: nothing was checked: FAILED\n");
  return totals.failed == 0 && totals.checked > 0 ? 0 : 1;
}

/// Reads the arguments; false when they are not understood.
bool parse(int argc, char** argv) {
  if (argc == 1) return true;
  const std::string_view device = argc == 3 ? argv[2] : "";
  if (std::string_view(argv[1]) != "--device" || (device != "cpu" && device != "cuda")) {
    fmt::print("golden: usage: golden [--device cpu|cuda]\n");
    return false;
  }
  golden_device() = at::Device(std::string(device));
  return true;
}

}  // namespace
}  // namespace rwkv::golden

int main(int argc, char** argv) {
  try {
    if (!rwkv::golden::parse(argc, argv)) return 2;
    return rwkv::golden::run();
  } catch (const std::exception& error) {
    fmt::print("golden: {}\n", error.what());
    return 1;
  }
}
