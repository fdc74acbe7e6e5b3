#include "trainer/compute.h"

#include <spdlog/spdlog.h>
#include <torch/torch.h>

#include <algorithm>
#include <cstdlib>

#include "data/base/error.h"
#include "trainer/report/run_files.h"
#include "trainer/version.h"

namespace rwkv::trainer {
namespace {

at::ScalarType dtype_of(Precision precision) {
  switch (precision) {
    case Precision::kBf16:
      return at::kBFloat16;
    case Precision::kFp16:
      return at::kHalf;
    default:
      return at::kFloat;
  }
}

bool has_bfloat16_instructions() {
#if defined(__x86_64__)
  return __builtin_cpu_supports("avx512bf16") != 0;
#else
  return false;
#endif
}

void warn_of_slow_numbers(Precision precision) {
  if (precision == Precision::kFp16) {
    spdlog::warn(
        "train.precision: fp16 is for GPUs; processors compute it slowly, use bf16 or fp32");
  } else if (precision == Precision::kBf16 && !has_bfloat16_instructions()) {
    spdlog::warn(
        "train.precision: this processor has no bfloat16 instructions (avx512_bf16), so bf16 saves "
        "memory but no time; use fp32 for speed");
  }
}

void set_threads(const TrainConfig& config, int64_t local_world_size) {
  if (config.threads > 0) {
    at::set_num_threads(static_cast<int>(config.threads));
  } else if (local_world_size > 1 && std::getenv("OMP_NUM_THREADS") == nullptr) {
    const int64_t share = at::get_num_threads() / local_world_size;
    at::set_num_threads(static_cast<int>(std::max<int64_t>(1, share)));
  }
}

/// Without these, gradients of the embedding and of gathers differ between two runs.
void make_cuda_repeatable() {
  ::setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8", /*overwrite=*/0);
  at::globalContext().setDeterministicAlgorithms(true, /*warn_only=*/true);
  at::globalContext().setDeterministicFillUninitializedMemory(false);  // a kernel an allocation
  at::globalContext().setDeterministicCuDNN(true);
}

/// Threads that wait for each other on too few cores are slower than one, and silent about it.
void check_threads(int64_t threads) {
  const int64_t cores = report::this_machine().cores;
  constexpr int64_t kFar = 4;
  if (cores > 0 && threads > kFar * cores) {
    user_error(
        "train.threads: {} threads on {} core{} would crawl; set it to 0 for all cores, or to {} "
        "at "
        "most",
        threads, cores, cores == 1 ? "" : "s", kFar * cores);
  }
  if (cores > 0 && threads > cores) {
    spdlog::warn("train.threads: {} threads share {} core{}; 0 takes as many as there are cores",
                 threads, cores, cores == 1 ? "" : "s");
  }
}

}  // namespace

Compute set_up_compute(const TrainConfig& config, int64_t local_rank, int64_t local_world_size) {
  check_threads(config.threads);
  set_threads(config, local_world_size);
  Compute compute{at::kCPU, dtype_of(config.precision)};
  if (config.device == "cpu") {
    warn_of_slow_numbers(config.precision);
    return compute;
  }
  if (cuda_architectures().empty() || !torch::cuda::is_available()) {
    user_error(
        "train.device: no CUDA device that this build can use; 'scripts/build cuda' on a machine "
        "with an NVIDIA GPU makes such a build, or set train.device: cpu");
  }
  const auto devices = static_cast<int64_t>(torch::cuda::device_count());
  if (local_rank >= devices) {
    user_error(
        "train.device: {} CUDA devices here, but rank {} on this machine wants one; start "
        "fewer ranks",
        devices, local_rank);
  }
  compute.device = at::Device(at::kCUDA, static_cast<at::DeviceIndex>(local_rank));
  make_cuda_repeatable();
  const bool tf32 = config.precision != Precision::kFp32;
  at::globalContext().setAllowTF32CuBLAS(tf32);
  at::globalContext().setAllowTF32CuDNN(tf32);
  return compute;
}

}  // namespace rwkv::trainer
