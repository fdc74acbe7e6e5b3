// Time of the WKV-4 operator per element (b, t, c), on one thread, beside a copy of as many bytes.
//
//   bench_wkv4 --benchmark_min_time=1
//
// The counter ns_per_element divides by B * T * C. BM_Copy copies the bytes that the forward
// moves (k and v read, y written: half of them read, half written).
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <benchmark/benchmark.h>

#include <cstring>
#include <iostream>

#include "cuda/ops.h"

namespace {

struct Inputs {
  at::Tensor time_decay, time_first, k, v, gy;

  Inputs(int64_t B, int64_t T, int64_t C, at::ScalarType type) {
    at::manual_seed(1);
    time_decay = at::linspace(-5, 3, C);
    time_first = at::randn({C}) * 0.5;
    k = at::randn({B, T, C}).to(type);
    v = at::randn({B, T, C}).to(type);
    gy = at::randn({B, T, C}).to(type);
  }
};

void report(benchmark::State& state, const at::Tensor& k) {
  state.counters["ns_per_element"] = benchmark::Counter(
      static_cast<double>(k.numel()) * 1e-9,
      benchmark::Counter::kIsIterationInvariantRate | benchmark::Counter::kInvert);
}

std::vector<c10::IValue> call(const char* name, std::vector<c10::IValue> stack) {
  c10::Dispatcher::singleton().findSchemaOrThrow(name, "").callBoxed(&stack);
  return stack;
}

std::vector<c10::IValue> arguments(const Inputs& in) {
  return {in.time_decay, in.time_first, in.k, in.v, {}, {}, {}, {}};
}

void forward(benchmark::State& state, int64_t B, int64_t T, int64_t C, at::ScalarType type) {
  const Inputs in(B, T, C, type);
  for (auto _ : state) {
    benchmark::DoNotOptimize(rwkv::ops::wkv4(in.time_decay, in.time_first, in.k, in.v));
  }
  report(state, in.k);
}

void forward_train(benchmark::State& state, int64_t B, int64_t T, int64_t C, at::ScalarType type) {
  const Inputs in(B, T, C, type);
  for (auto _ : state) benchmark::DoNotOptimize(call("rwkv::wkv4_train", arguments(in)));
  report(state, in.k);
}

void backward(benchmark::State& state, int64_t B, int64_t T, int64_t C, at::ScalarType type) {
  const Inputs in(B, T, C, type);
  const auto checkpoints = call("rwkv::wkv4_train", arguments(in)).at(4);
  for (auto _ : state) {
    benchmark::DoNotOptimize(
        call("rwkv::wkv4_backward",
             {in.time_decay, in.time_first, in.k, in.v, {}, checkpoints, in.gy, {}, {}}));
  }
  report(state, in.k);
}

void copy(benchmark::State& state, int64_t B, int64_t T, int64_t C, at::ScalarType type) {
  const Inputs in(B, T, C, type);
  const size_t bytes = in.k.nbytes() * 3 / 2;
  const std::vector<char> from(bytes, 1);
  std::vector<char> to(bytes);
  for (auto _ : state) {
    std::memcpy(to.data(), from.data(), bytes);
    benchmark::ClobberMemory();
  }
  report(state, in.k);
}

}  // namespace

#define WKV4_BENCHMARKS(name, ...)                     \
  BENCHMARK_CAPTURE(copy, name, __VA_ARGS__);          \
  BENCHMARK_CAPTURE(forward, name, __VA_ARGS__);       \
  BENCHMARK_CAPTURE(forward_train, name, __VA_ARGS__); \
  BENCHMARK_CAPTURE(backward, name, __VA_ARGS__)

WKV4_BENCHMARKS(8x256x512, 8, 256, 512, at::kFloat);
WKV4_BENCHMARKS(4x1024x768, 4, 1024, 768, at::kFloat);
WKV4_BENCHMARKS(8x256x512_bf16, 8, 256, 512, at::kBFloat16);

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  at::set_num_threads(1);
  std::cout << "CPU capability: " << at::get_cpu_capability() << "\n";
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}
