// bench_products L C T B V [fp32|bf16] [STEPS]: the matrix products of a training step of RWKV-4
// and nothing else: three for every matrix (output, gradient of the input, gradient of the weight).
// What it takes is the floor of any training step on this machine's products; prints tokens per
// second.
#include <torch/torch.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

namespace {

/// One linear layer with everything its three products need.
struct Layer {
  at::Tensor x, weight, g_out;  // [N,in], [out,in], [N,out]

  Layer(int64_t rows, int64_t in, int64_t out, at::ScalarType type)
      : x(at::randn({rows, in}).to(type)),
        weight(at::randn({out, in}).to(type)),
        g_out(at::randn({rows, out}).to(type)) {}

  void forward() const { at::linear(x, weight); }
  void backward() const {
    at::mm(g_out, weight);
    at::mm(g_out.t(), x);
  }
};

}  // namespace

int main(int argc, char** argv) {
  if (argc < 6) {
    std::fprintf(stderr, "usage: bench_products L C T B V [fp32|bf16] [STEPS]\n");
    return 2;
  }
  const auto number = [&](int i) { return std::strtoll(argv[i], nullptr, 10); };
  const int64_t L = number(1), C = number(2), T = number(3), B = number(4), V = number(5);
  const bool bf16 = argc > 6 && std::strcmp(argv[6], "bf16") == 0;
  const int64_t steps = argc > 7 ? number(7) : 10;
  const auto type = bf16 ? at::kBFloat16 : at::kFloat;
  const at::NoGradGuard no_grad;
  std::vector<Layer> layers;
  for (int64_t l = 0; l < L; ++l) {
    for (int i = 0; i < 5; ++i) layers.emplace_back(B * T, C, C, type);
    layers.emplace_back(B * T, C, 4 * C, type);
    layers.emplace_back(B * T, 4 * C, C, type);
  }
  layers.emplace_back(B * T, C, V, type);
  std::vector<double> seconds;
  for (int64_t step = 0; step <= steps; ++step) {
    const auto start = std::chrono::steady_clock::now();
    for (const Layer& layer : layers) layer.forward();
    for (auto layer = layers.rbegin(); layer != layers.rend(); ++layer) layer->backward();
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    if (step > 0) seconds.push_back(took.count());
  }
  std::sort(seconds.begin(), seconds.end());
  const auto tokens = static_cast<double>(B * T);
  std::printf("products alone: %.0f tokens/s (median), %.0f (best)\n",
              tokens / seconds[seconds.size() / 2], tokens / seconds.front());
  return 0;
}
