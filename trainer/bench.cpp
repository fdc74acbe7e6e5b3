#include "trainer/bench.h"

#include <fmt/format.h>
#include <sys/resource.h>
#include <torch/torch.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <map>

#include "cuda/ops.h"
#include "model/factory.h"
#include "model/generate.h"
#include "model/inference/rwkv4_inference.h"
#include "model/init.h"
#include "model/precision.h"
#include "trainer/flops.h"
#include "trainer/loss.h"
#include "trainer/machine_speed.h"
#include "trainer/optimizer.h"
#include "trainer/profile.h"

namespace rwkv::trainer {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

double seconds_of(const std::function<void()>& work) {
  const auto start = Clock::now();
  work();
  return std::chrono::duration<double>(Clock::now() - start).count();
}

double median(std::vector<double> values) {
  const auto middle = values.begin() + std::ssize(values) / 2;
  std::ranges::nth_element(values, middle);
  return *middle;
}

/// The first call allocates and warms up and is left out.
double median_seconds(const std::function<void()>& work, double budget_s) {
  work();
  std::vector<double> times;
  const auto start = Clock::now();
  do times.push_back(seconds_of(work));
  while (std::chrono::duration<double>(Clock::now() - start).count() < budget_s ||
         times.size() < 3);
  return median(std::move(times));
}

int64_t peak_bytes() {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  return int64_t{usage.ru_maxrss} * 1024;
}

int64_t resident_bytes() {
  std::ifstream file("/proc/self/statm");
  int64_t size = 0;
  int64_t resident = 0;
  file >> size >> resident;
  return resident * ::sysconf(_SC_PAGESIZE);
}

at::Generator generator() { return at::make_generator<at::CPUGeneratorImpl>(42); }

at::Tensor noise(at::IntArrayRef sizes, bool requires_grad = false) {
  return at::randn(sizes, generator(), at::kFloat).requires_grad_(requires_grad);
}

// --- operators ---

class OperatorBench {
 public:
  explicit OperatorBench(double budget_s) : budget_s_(budget_s) {
    copy_bytes_per_s_ = measure_copy(int64_t{1} << 28, 0.2);
  }

  /// `tensors`: how many tensors of `elements` fp32 numbers must be read or written.
  void add(const std::string& name, int64_t elements, double tensors,
           const std::function<void()>& work) {
    const double seconds = median_seconds(work, budget_s_);
    const auto n = static_cast<double>(elements);
    results_.push_back({.name = name,
                        .elements = elements,
                        .ns_per_element = seconds / n * 1e9,
                        .copy_share = tensors * n * 4 / copy_bytes_per_s_ / seconds});
  }
  std::vector<OperatorSpeed> results() && { return std::move(results_); }

 private:
  double budget_s_;
  double copy_bytes_per_s_ = 0;
  std::vector<OperatorSpeed> results_;
};

void add_wkv(OperatorBench& bench, int64_t B, int64_t T, int64_t C) {
  const at::Tensor decay = noise({C}, true);
  const at::Tensor first = noise({C}, true);
  const at::Tensor k = noise({B, T, C}, true);
  const at::Tensor v = noise({B, T, C}, true);
  const at::Tensor gy = noise({B, T, C});
  const std::vector<at::Tensor> inputs = {decay, first, k, v};
  const int64_t n = B * T * C;
  bench.add("wkv4 forward", n, 3, [&] {
    const torch::NoGradGuard no_grad;
    ops::wkv4(decay, first, k, v, {});
  });
  bench.add("wkv4 forward + backward", n, 8, [&] {
    torch::autograd::grad({std::get<0>(ops::wkv4(decay, first, k, v, {}))}, inputs, {gy});
  });
}

// --- the training step ---

std::unique_ptr<Adam> make_optimizer(model::LanguageModel& model, at::ScalarType dtype) {
  std::vector<OptimizedParameter> parameters;
  for (const auto& entry : model.named_parameters()) {
    OptimizedParameter parameter{entry.key(), entry.value()};
    if (dtype != at::kFloat && !model::stays_float32(entry.key())) {
      parameter.master = entry.value().detach().clone();
    }
    parameters.push_back(std::move(parameter));
  }
  model::convert_parameters(model, dtype, at::kCPU);
  const OptimizerConfig config;
  assign_groups(parameters, config, /*stage=*/-1);
  return std::make_unique<Adam>(std::move(parameters), config);
}

model::ModelConfig model_config(const StepShape& shape) {
  model::ModelConfig config;
  config.n_layer = shape.n_layer;
  config.n_embd = shape.n_embd;
  config.vocab_size = shape.vocab_size;
  return config;
}

/// A model, its optimizer and one batch.
class TrainingStep {
 public:
  explicit TrainingStep(const StepShape& shape)
      : model_(model::build_model(model_config(shape))), shape_(shape) {
    model::init_weights(*model_, 42, 1e-4);
    const bool half = shape.precision == Precision::kBf16;
    optimizer_ = make_optimizer(*model_, half ? at::kBFloat16 : at::kFloat);
    const at::Tensor text =
        at::randint(shape.vocab_size, {shape.micro_bsz, shape.ctx_len + 1}, generator(), at::kLong);
    inputs_ = text.slice(1, 0, shape.ctx_len).contiguous();
    targets_ = text.slice(1, 1).contiguous();
  }

  void run() {
    cross_entropy(model_->forward(inputs_), targets_, L2Wrap{}).backward();
    const double norm = optimizer_->gradient_norm();
    optimizer_->step({.lr = 1e-4}, norm);
    optimizer_->zero_grad();
  }

  [[nodiscard]] model::LanguageModel& model() const { return *model_; }
  [[nodiscard]] int64_t tokens() const { return shape_.micro_bsz * shape_.ctx_len; }

 private:
  std::shared_ptr<model::LanguageModel> model_;
  StepShape shape_;
  std::unique_ptr<Adam> optimizer_;
  at::Tensor inputs_, targets_;
};

/// For every matrix [out,in] of the model the three products that training needs, into memory that
/// is there: [N,in] [in,out], [N,out] [out,in], [out,N] [N,in].
class BareProducts {
 public:
  BareProducts(const model::LanguageModel& model, int64_t tokens) : tokens_(tokens) {
    for (const auto& entry : model.named_parameters()) {
      const at::Tensor weight = entry.value().detach();
      if (weight.dim() != 2 || entry.key() == "emb.weight") continue;
      weights_.push_back(weight);
      rows(weight, weight.size(0));
      rows(weight, weight.size(1));
      at::Tensor& gradient = gradients_[{weight.size(0), weight.size(1)}];
      if (!gradient.defined()) gradient = at::zeros_like(weight);
    }
  }

  void run() {
    const torch::NoGradGuard no_grad;
    for (const at::Tensor& weight : weights_) {
      auto& [x, gx] = rows_.at(weight.size(1));
      auto& [gy, y] = rows_.at(weight.size(0));
      at::mm_out(y, x, weight.t());
      at::mm_out(gx, gy, weight);
      at::mm_out(gradients_.at({weight.size(0), weight.size(1)}), gy.t(), x);
    }
  }

 private:
  /// Two tensors [tokens, width]: one that is read, one that is written.
  void rows(const at::Tensor& weight, int64_t width) {
    auto& pair = rows_[width];
    if (pair.first.defined()) return;
    pair.first = noise({tokens_, width}).to(weight.scalar_type());
    pair.second = at::zeros_like(pair.first);
  }

  int64_t tokens_;
  std::vector<at::Tensor> weights_;
  std::map<int64_t, std::pair<at::Tensor, at::Tensor>> rows_;
  std::map<std::pair<int64_t, int64_t>, at::Tensor> gradients_;
};

std::vector<PartSpeed> profile_parts(TrainingStep& step) {
  const fs::path trace = fs::temp_directory_path() / fmt::format("rwkv-bench-{}.json", ::getpid());
  StepProfile profile(trace);
  constexpr int64_t kSteps = 5;
  for (int64_t i = 1; i <= StepProfile::kWarmUpSteps + kSteps; ++i) {
    profile.begin_step(i);
    step.run();
  }
  std::vector<PartSpeed> parts;
  for (const auto& [name, forward_s, backward_s, products_s] : profile.parts_per_step()) {
    parts.push_back({name, forward_s, backward_s, products_s});
  }
  std::error_code ignored;
  fs::remove(trace, ignored);
  return parts;
}

// --- generation ---

double spread(const std::vector<double>& values) {
  const auto [low, high] = std::ranges::minmax(values);
  return high / low - 1;
}

GenerationPoint generate_after(model::LanguageModel& model, int64_t context, int64_t tokens) {
  GenerationPoint point{.context = context};
  std::vector<int64_t> prompt(static_cast<size_t>(context));
  for (size_t i = 0; i < prompt.size(); ++i) {
    prompt[i] = static_cast<int64_t>(i * 7919) % model.config().vocab_size;
  }
  model::State state;
  std::vector<double> times;
  auto last = Clock::now();
  // The first token comes after the prompt, the others a step each.
  model::generate(model, prompt, {.sampling = {.temperature = 0}, .tokens = tokens + 1}, state,
                  [&](int64_t) {
                    const auto now = Clock::now();
                    times.push_back(std::chrono::duration<double>(now - last).count());
                    last = now;
                    return true;
                  });
  point.memory_bytes = resident_bytes();
  point.prefill_s = times.front();
  times.erase(times.begin());
  point.token_s = median(std::move(times));
  return point;
}

}  // namespace

std::vector<OperatorSpeed> bench_operators(int64_t B, int64_t T, int64_t C, int64_t V,
                                           double budget_s) {
  TORCH_CHECK(B > 0 && T > 0 && C > 0 && V > 0, "bench_operators: B ", B, ", T ", T, ", C ", C,
              ", V ", V, ": all must be positive");
  OperatorBench bench(budget_s);
  add_wkv(bench, B, T, C);
  {
    const at::Tensor x = noise({B, T, C}, true);
    const at::Tensor weight = noise({C}, true);
    const at::Tensor bias = noise({C}, true);
    const at::Tensor gy = noise({B, T, C});
    const std::vector<at::Tensor> inputs = {x, weight, bias};
    bench.add("layer norm forward + backward", B * T * C, 5,
              [&] { torch::autograd::grad({at::layer_norm(x, {C}, weight, bias)}, inputs, {gy}); });
  }
  {
    const at::Tensor logits = noise({B * T, V}, true);
    const at::Tensor targets = at::randint(V, {B * T}, generator(), at::kLong);
    const std::vector<at::Tensor> inputs = {logits};
    bench.add("cross entropy + L2Wrap forward + backward", B * T * V, 3,
              [&] { torch::autograd::grad({cross_entropy(logits, targets, L2Wrap{})}, inputs); });
  }
  {
    const at::Tensor value = noise({B * T * C}, true);
    value.mutable_grad() = noise({B * T * C});
    Adam adam({{"weight", value}}, OptimizerConfig{});
    bench.add("Adam", B * T * C, 7, [&] { adam.step({.lr = 1e-4}, 1); });
  }
  return std::move(bench).results();
}

StepSpeed bench_step(const StepShape& shape, double budget_s) {
  TrainingStep step(shape);
  const int64_t tokens = step.tokens();
  StepSpeed speed;
  for (const at::Tensor& p : step.model().parameters()) speed.parameters += p.numel();
  for (int i = 0; i < 2; ++i) step.run();
  speed.peak_bytes = peak_bytes();

  BareProducts bare(step.model(), tokens);
  bare.run();
  std::vector<double> step_times;
  std::vector<double> bare_times;
  const auto start = Clock::now();
  while (std::chrono::duration<double>(Clock::now() - start).count() < budget_s ||
         step_times.size() < 3) {
    step_times.push_back(seconds_of([&] { step.run(); }));
    bare_times.push_back(seconds_of([&] { bare.run(); }));
  }
  speed.steps = std::ssize(step_times);
  speed.step_s = median(std::move(step_times));
  speed.bare_s = median(std::move(bare_times));
  speed.tokens_per_s = static_cast<double>(tokens) / speed.step_s;
  speed.flops_per_token = model_flops_per_token(step.model(), shape.ctx_len);
  const auto dtype = shape.precision == Precision::kBf16 ? at::kBFloat16 : at::kFloat;
  speed.product_flops_per_s = measure_products(dtype, at::kCPU, 0.5).flops_per_s;
  speed.parts = profile_parts(step);
  return speed;
}

double GenerationSpeed::read_share() const {
  const auto best = std::ranges::min_element(points, {}, &GenerationPoint::token_s);
  return static_cast<double>(weight_bytes) / best->token_s / read_bytes_per_s;
}

double GenerationSpeed::time_spread() const {
  std::vector<double> values;
  for (const GenerationPoint& point : points) values.push_back(point.token_s);
  return spread(values);
}

double GenerationSpeed::memory_spread() const {
  std::vector<double> values;
  for (const GenerationPoint& point : points) {
    values.push_back(static_cast<double>(point.memory_bytes));
  }
  return spread(values);
}

GenerationSpeed bench_generation(model::LanguageModel& model, const std::vector<int64_t>& contexts,
                                 int64_t tokens,
                                 const std::function<void(const std::string&)>& on_progress) {
  TORCH_CHECK(!contexts.empty() && tokens > 0, "bench_generation: ", contexts.size(),
              " contexts, tokens ", tokens, ": both must be positive");
  GenerationSpeed speed;
  for (const auto& entry : model.named_parameters()) {
    if (entry.key() != "emb.weight")
      speed.weight_bytes += static_cast<int64_t>(entry.value().nbytes());
  }
  if (const auto* inference = dynamic_cast<const model::InferenceModel*>(&model)) {
    speed.weight_bytes = inference->weight_bytes();
  }
  speed.read_bytes_per_s = measure_read(int64_t{1} << 28, 0.5);
  generate_after(model, 1, 3);  // warms up
  for (const int64_t context : contexts) {
    on_progress(fmt::format("{} tokens after {}", tokens, context));
    speed.points.push_back(generate_after(model, context, tokens));
  }
  return speed;
}

}  // namespace rwkv::trainer
