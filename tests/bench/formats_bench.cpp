// How fast weights load beside a copy of the same bytes from the page cache, and how much memory a
// conversion takes beside its largest tensor. Writes 5 GB of files below the folder it is given.
#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "model/formats/bytes.h"
#include "model/formats/convert.h"
#include "model/formats/pth_writer.h"
#include "model/formats/tensor_file.h"

namespace {

namespace fs = std::filesystem;
using rwkv::formats::DType;
using rwkv::formats::TensorSpec;

/// An RWKV-4 of some `bytes` in all, as names and shapes: blocks of width `width`.
std::vector<TensorSpec> rwkv4_specs(int64_t bytes, int64_t width, DType dtype) {
  std::vector<TensorSpec> specs{{"emb.weight", dtype, {50277, width}},
                                {"blocks.0.ln0.weight", dtype, {width}}};
  const int64_t item = rwkv::formats::item_size(dtype);
  int64_t left = bytes - 2 * 50277 * width * item;
  for (int64_t i = 0; left > 0; ++i) {
    const std::string block = fmt::format("blocks.{}.", i);
    for (const char* name :
         {"att.key", "att.value", "att.receptance", "att.output", "ffn.receptance"}) {
      specs.push_back({block + name + ".weight", dtype, {width, width}});
    }
    specs.push_back({block + "ffn.key.weight", dtype, {4 * width, width}});
    specs.push_back({block + "ffn.value.weight", dtype, {width, 4 * width}});
    left -= 13 * width * width * item;
  }
  specs.push_back({"head.weight", dtype, {50277, width}});
  return specs;
}

/// The best of five, after a first one that fills the page cache.
double seconds(const std::function<void()>& work) {
  double best = std::numeric_limits<double>::infinity();
  for (int i = 0; i < 6; ++i) {
    const auto start = std::chrono::steady_clock::now();
    work();
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
    if (i > 0) best = std::min(best, elapsed.count());
  }
  return best;
}

/// Reads the whole file into `out`, as cp does.
void copy_from_page_cache(const fs::path& file, std::span<std::byte> out) {
  const int fd = ::open(file.c_str(), O_RDONLY | O_CLOEXEC);
  size_t at = 0;
  while (at < out.size()) {
    const ssize_t n = ::pread(fd, out.data() + at, std::min<size_t>(out.size() - at, 1 << 20),
                              static_cast<off_t>(at));
    if (n <= 0) break;
    at += static_cast<size_t>(n);
  }
  ::close(fd);
}

void time_loading(const fs::path& folder, DType stored, const char* name) {
  const fs::path path = folder / "load.pth";
  const std::vector<TensorSpec> specs = rwkv4_specs(1'000'000'000, 1024, stored);
  std::vector<std::byte> data;
  rwkv::formats::write_pth(path, specs, [&](size_t i) {
    data.assign(static_cast<size_t>(*rwkv::formats::byte_size(stored, specs[i].shape)),
                static_cast<std::byte>(i + 1));
    return std::span<const std::byte>(data);
  });
  const auto size = static_cast<size_t>(fs::file_size(path));
  const auto file = rwkv::formats::open_tensor_file(path);
  size_t needed = 0;
  for (const auto& tensor : file.tensors()) needed += static_cast<size_t>(tensor.numel()) * 4;
  std::vector<std::byte> out(std::max(size, needed));
  const double copy = seconds([&] { copy_from_page_cache(path, {out.data(), size}); });
  const double load = seconds([&] {
    const auto opened = rwkv::formats::open_tensor_file(path);
    size_t at = 0;
    for (const auto& tensor : opened.tensors()) {
      const auto bytes = static_cast<size_t>(tensor.numel()) * 4;
      opened.read(tensor, DType::f32, {out.data() + at, bytes});
      at += bytes;
    }
  });
  const double gb = static_cast<double>(size) / 1e9;
  fmt::print(
      "load {} .pth of {:.2f} GB as fp32: {:.2f} s ({:.2f} GB/s); copy of the page cache: {:.2f} s "
      "({:.2f} GB/s); ratio {:.2f}\n",
      name, gb, load, gb / load, copy, gb / copy, load / copy);
  fs::remove(path);
}

/// A safetensors file of zeros that takes no disk.
void write_sparse(const fs::path& path, const std::vector<TensorSpec>& specs) {
  std::string header = "{";
  int64_t at = 0;
  for (const TensorSpec& spec : specs) {
    const int64_t size = *rwkv::formats::byte_size(spec.dtype, spec.shape);
    header += fmt::format(R"({}"{}":{{"dtype":"F32","shape":[{}],"data_offsets":[{},{}]}})",
                          at > 0 ? "," : "", spec.name, fmt::join(spec.shape, ","), at, at + size);
    at += size;
  }
  header += "}";
  std::string length;
  rwkv::formats::append_le(length, static_cast<uint64_t>(header.size()));
  std::ofstream(path, std::ios::binary) << length << header;
  fs::resize_file(path, length.size() + header.size() + static_cast<uint64_t>(at));
}

/// Peak memory of `work` in a process of its own, in bytes; -1 when it failed.
int64_t peak_of(const std::function<void()>& work) {
  const pid_t child = ::fork();
  if (child == 0) {
    work();
    ::_exit(0);
  }
  int status = 0;
  rusage usage{};
  ::wait4(child, &status, 0, &usage);
  return status == 0 ? int64_t{usage.ru_maxrss} * 1024 : -1;
}

bool measure_conversion(const fs::path& folder, const char* name,
                        const rwkv::formats::ConvertOptions& options) {
  const fs::path in = folder / "sparse.safetensors";
  const fs::path out = folder / "converted";
  const std::vector<TensorSpec> specs = rwkv4_specs(4'000'000'000, 2048, DType::f32);
  write_sparse(in, specs);
  const int64_t peak =
      peak_of([&] { rwkv::formats::convert(rwkv::formats::open_tensor_file(in), out, options); });
  if (peak < 0) {
    fmt::print(stderr, "bench_formats: the conversion to {} failed\n", name);
    return false;
  }
  const auto largest = static_cast<double>(*rwkv::formats::byte_size(DType::f32, specs[0].shape));
  fmt::print(
      "convert {:.2f} GB of safetensors to {}: peak {:.0f} MB, largest tensor {:.0f} MB, ratio "
      "{:.2f}\n",
      static_cast<double>(fs::file_size(in)) / 1e9, name, static_cast<double>(peak) / 1e6,
      largest / 1e6, static_cast<double>(peak) / largest);
  fs::remove_all(out);
  fs::remove(in);
  constexpr double kAllowance = 200e6;
  return static_cast<double>(peak) < largest + kAllowance;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2 || !fs::is_directory(argv[1])) {
    fmt::print(stderr, "usage: bench_formats FOLDER (with room for 5 GB)\n");
    return 2;
  }
  const fs::path folder = argv[1];
  // First, while this process is small: a child starts with its parent's memory.
  bool small = measure_conversion(folder, "pth in fp32", {});
  rwkv::formats::ConvertOptions half;
  half.target = rwkv::formats::Target::kHuggingFace;
  half.dtype = DType::f16;
  half.shard_bytes = 1'000'000'000;
  small = measure_conversion(folder, "a Hugging Face folder in fp16", half) && small;
  time_loading(folder, DType::f32, "fp32");
  time_loading(folder, DType::bf16, "bf16");
  fmt::print("{}\n", small ? "memory is within the largest tensor and 200 MB"
                           : "memory is beyond the largest tensor and 200 MB");
  return small ? 0 : 1;
}
