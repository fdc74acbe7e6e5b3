#include "trainer/machine_speed.h"

#include <c10/core/impl/VirtualGuardImpl.h>
#include <torch/torch.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <functional>
#include <limits>

#include "cuda/inference.h"
#include "model/inference/weight_matrix.h"

namespace rwkv::trainer {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

double seconds_of(const std::function<void()>& work) {
  const auto start = Clock::now();
  work();
  return seconds_since(start);
}

/// The shortest of as many calls as fit into the budget; at least one.
double shortest(const std::function<void()>& work, double budget_s) {
  const auto start = Clock::now();
  double best = std::numeric_limits<double>::infinity();
  do best = std::min(best, seconds_of(work));
  while (seconds_since(start) + best < budget_s);
  return best;
}

/// Kernels of other devices run on after the call returns.
void wait_for(c10::Device device) {
  if (device.is_cpu()) return;
  c10::impl::VirtualGuardImpl(device.type()).synchronizeDevice(device.index());
}

/// One product of size x size matrices, ready to be repeated. Constant values: a generator must not
/// notice.
std::function<void()> product(int64_t size, c10::ScalarType dtype, c10::Device device) {
  const auto options = at::TensorOptions(dtype).device(device);
  const at::Tensor a = at::full({size, size}, 0.5, options);
  const at::Tensor b = at::full({size, size}, 0.25, options);
  const at::Tensor c = at::zeros({size, size}, options);
  return [=] {
    at::Tensor out = c;
    at::mm_out(out, a, b);
    wait_for(device);
  };
}

double operations(int64_t size) { return 2 * std::pow(static_cast<double>(size), 3); }

}  // namespace

ProductRate measure_products(c10::ScalarType dtype, c10::Device device, double budget_s) {
  const torch::NoGradGuard no_grad;
  const auto start = Clock::now();
  constexpr int64_t kSmallest = 256;
  const int64_t largest = device.is_cpu() ? 2048 : 8192;
  const auto small = product(kSmallest, dtype, device);
  small();  // starts threads and sets the library up
  ProductRate rate{operations(kSmallest) / shortest(small, budget_s / 20), kSmallest};
  int64_t size = kSmallest;
  while (size < largest && operations(2 * size) / rate.flops_per_s < budget_s / 8) size *= 2;
  const auto work = product(size, dtype, device);
  const double flops_per_s = operations(size) / shortest(work, budget_s - seconds_since(start));
  return flops_per_s > rate.flops_per_s ? ProductRate{flops_per_s, size} : rate;
}

double measure_copy(int64_t size_bytes, double budget_s) {
  const torch::NoGradGuard no_grad;
  const auto start = Clock::now();
  const at::Tensor from = at::ones({size_bytes}, at::kByte);
  const at::Tensor to = at::zeros({size_bytes}, at::kByte);
  const double best_s =
      shortest([&] { at::Tensor(to).copy_(from); }, budget_s - seconds_since(start));
  return 2 * static_cast<double>(size_bytes) / best_s;
}

double measure_read(int64_t size_bytes, double budget_s) {
  const torch::NoGradGuard no_grad;
  const auto start = Clock::now();
  const int64_t count = std::max<int64_t>(1, size_bytes / static_cast<int64_t>(sizeof(float)));
  const at::Tensor memory = model::weight_memory({count}, at::kFloat).zero_();
  float sum = 0;
  const double best_s =
      shortest([&] { sum += ops::read_all(memory.const_data_ptr<float>(), count); },
               budget_s - seconds_since(start));
  TORCH_CHECK(sum == 0, "measure_read: the sum of zeros is ", sum);
  return static_cast<double>(count) * sizeof(float) / best_s;
}

}  // namespace rwkv::trainer
