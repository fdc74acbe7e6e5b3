// Time of the WKV-4 operator per element (b, t, c), beside a copy on the same device: on the CPU on
// one thread, on a GPU on one stream.
//
//   bench_wkv4 [--device=cpu|cuda] --benchmark_min_time=1
//
// The counter ns_per_element divides by B * T * C; bytes_per_element is what must be read and
// written, checkpoints included, so that bytes by time compares with the copy's.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <benchmark/benchmark.h>
#include <torch/cuda.h>

#include <chrono>
#include <cstring>
#include <functional>
#include <iostream>
#include <string>
#include <vector>

#include "cuda/ops.h"
#include "cuda/wkv4_thread.h"
#include "cuda/wkv4_tile.h"

namespace {

struct Shape {
  int64_t B, T, C;
  at::ScalarType type;
};

struct Inputs {
  at::Tensor time_decay, time_first, k, v, gy;

  Inputs(const Shape& shape, at::Device device) {
    at::manual_seed(1);
    const auto random = [&] {
      return at::randn({shape.B, shape.T, shape.C}).to(device, shape.type);
    };
    time_decay = at::linspace(-5, 3, shape.C).to(device);
    time_first = (at::randn({shape.C}) * 0.5).to(device);
    k = random();
    v = random();
    gy = random();
  }
};

std::vector<c10::IValue> call(const char* name, std::vector<c10::IValue> stack) {
  c10::Dispatcher::singleton().findSchemaOrThrow(name, "").callBoxed(&stack);
  return stack;
}

std::vector<c10::IValue> arguments(const Inputs& in) {
  return {in.time_decay, in.time_first, in.k, in.v, {}, {}, {}, {}};
}

/// Bytes of a checkpoint's five numbers, per element.
double checkpoint_bytes(at::Device device) {
  const auto tokens =
      device.is_cuda() ? int64_t{rwkv::ops::kWkvChunkTokens} : rwkv::ops::kWkvTileTokens;
  return 5.0 * sizeof(float) / static_cast<double>(tokens);
}

/// Times `work`. A GPU works behind the host's back: there one iteration is a row of calls between
/// two waits, so that starting them does not count.
void measure(benchmark::State& state, const Inputs& in, double bytes_per_element,
             const std::function<void()>& work) {
  using Clock = std::chrono::steady_clock;
  const bool on_gpu = in.k.is_cuda();
  const int calls = on_gpu ? 20 : 1;
  if (on_gpu) {
    work();
    torch::cuda::synchronize();
  }
  for (auto _ : state) {
    const auto start = Clock::now();
    for (int i = 0; i < calls; ++i) work();
    if (on_gpu) torch::cuda::synchronize();
    state.SetIterationTime(std::chrono::duration<double>(Clock::now() - start).count());
  }
  state.counters["ns_per_element"] = benchmark::Counter(
      static_cast<double>(in.k.numel()) * calls * 1e-9,
      benchmark::Counter::kIsIterationInvariantRate | benchmark::Counter::kInvert);
  state.counters["bytes_per_element"] = bytes_per_element;
}

void forward(benchmark::State& state, const Shape& shape, at::Device device) {
  const Inputs in(shape, device);
  measure(state, in, 3.0 * static_cast<double>(in.k.element_size()), [&] {
    benchmark::DoNotOptimize(rwkv::ops::wkv4(in.time_decay, in.time_first, in.k, in.v));
  });
}

void forward_train(benchmark::State& state, const Shape& shape, at::Device device) {
  const Inputs in(shape, device);
  const double bytes = 3.0 * static_cast<double>(in.k.element_size()) + checkpoint_bytes(device);
  measure(state, in, bytes,
          [&] { benchmark::DoNotOptimize(call("rwkv::wkv4_train", arguments(in))); });
}

void backward(benchmark::State& state, const Shape& shape, at::Device device) {
  const Inputs in(shape, device);
  const auto checkpoints = call("rwkv::wkv4_train", arguments(in)).at(4);
  const double bytes = 5.0 * static_cast<double>(in.k.element_size()) + checkpoint_bytes(device);
  measure(state, in, bytes, [&] {
    benchmark::DoNotOptimize(
        call("rwkv::wkv4_backward",
             {in.time_decay, in.time_first, in.k, in.v, {}, checkpoints, in.gy, {}, {}}));
  });
}

/// Copies as many bytes as the forward moves: half of them read, half written.
void copy(benchmark::State& state, const Shape& shape, at::Device device) {
  const Inputs in(shape, device);
  const auto bytes = static_cast<int64_t>(in.k.nbytes() * 3 / 2);
  const at::Tensor from = at::ones({bytes}, at::TensorOptions(device).dtype(at::kByte));
  const at::Tensor to = at::empty_like(from);
  measure(state, in, 3.0 * static_cast<double>(in.k.element_size()), [&] {
    if (device.is_cuda()) {
      to.copy_(from, /*non_blocking=*/true);
    } else {
      std::memcpy(to.mutable_data_ptr(), from.const_data_ptr(), static_cast<size_t>(bytes));
      benchmark::ClobberMemory();
    }
  });
}

std::string name_of(const Shape& shape) {
  std::string name =
      std::to_string(shape.B) + "x" + std::to_string(shape.T) + "x" + std::to_string(shape.C);
  if (shape.type == at::kBFloat16) name += "_bf16";
  if (shape.type == at::kHalf) name += "_fp16";
  return name;
}

void register_all(at::Device device) {
  std::vector<Shape> shapes{{8, 256, 512, at::kFloat},
                            {4, 1024, 768, at::kFloat},
                            {8, 256, 512, at::kBFloat16},
                            {8, 256, 512, at::kHalf}};
  if (device.is_cuda()) {
    for (const auto type : {at::kFloat, at::kBFloat16, at::kHalf}) {
      shapes.push_back({8, 1024, 768, type});   // the 169M model
      shapes.push_back({8, 1024, 4096, type});  // the 7B model
    }
  }
  using Run = void (*)(benchmark::State&, const Shape&, at::Device);
  const std::pair<const char*, Run> runs[] = {{"copy", copy},
                                              {"forward", forward},
                                              {"forward_train", forward_train},
                                              {"backward", backward}};
  for (const Shape& shape : shapes) {
    for (const auto& [name, run] : runs) {
      const std::string full = std::string(name) + "/" + name_of(shape);
      benchmark::RegisterBenchmark(full.c_str(), run, shape, device)->UseManualTime();
    }
  }
}

/// Takes --device=X out of the arguments; false when X is unknown.
bool take_device(int& argc, char** argv, at::Device& device) {
  const std::string option = "--device=";
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (!argument.starts_with(option)) continue;
    const std::string name = argument.substr(option.size());
    if (name != "cpu" && name != "cuda") {
      std::cerr << "bench_wkv4: there is no device '" << name << "'; use cpu or cuda\n";
      return false;
    }
    device = at::Device(name);
    for (int j = i; j + 1 < argc; ++j) argv[j] = argv[j + 1];
    --argc;
    return true;
  }
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  at::Device device = at::kCPU;
  if (!take_device(argc, argv, device)) return 2;
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  if (device.is_cuda() && !torch::cuda::is_available()) {
    std::cerr << "bench_wkv4: skipped: no CUDA device\n";
    return 77;
  }
  at::set_num_threads(1);
  std::cerr << "CPU capability: " << at::get_cpu_capability() << "\n";
  register_all(device);
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}
