// Speed of generation and of prompts, beside what bounds them on the same machine in the same
// process.
//
//   bench_generation MODEL [--strategy S] [--threads N] [--tokens N] [--contexts] [--prompt N]
//
// Prints one JSON object: tokens a second (best and median), the bytes of weights that one token
// reads, the rate at which memory can be read, measured between the tokens, and the share of it
// that was reached; with --contexts the time of a token after 128, 1000 and 8000 tokens and the
// memory of the process there; with --prompt the tokens a second of a prompt of N tokens and its
// share of the rate of float32 matrix products.
#include <ATen/Parallel.h>
#include <fmt/format.h>
#include <torch/torch.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <ctime>
#include <fstream>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <vector>

#include "model/inference/rwkv4_inference.h"
#include "trainer/machine_speed.h"
#include "trainer/model_source.h"

namespace {

using namespace rwkv;
using Clock = std::chrono::steady_clock;
using Json = nlohmann::ordered_json;

struct Arguments {
  std::string model;
  std::string strategy = model::kDefaultStrategy;
  int threads = 1;
  int64_t tokens = 64;
  bool contexts = false;
  int64_t prompt = 0;
};

Arguments parse(int argc, char** argv) {
  Arguments arguments;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    const auto next = [&] { return i + 1 < argc ? argv[++i] : ""; };
    if (word == "--strategy") {
      arguments.strategy = next();
    } else if (word == "--threads") {
      arguments.threads = std::atoi(next());
    } else if (word == "--tokens") {
      arguments.tokens = std::atoll(next());
    } else if (word == "--prompt") {
      arguments.prompt = std::atoll(next());
    } else if (word == "--contexts") {
      arguments.contexts = true;
    } else {
      arguments.model = word;
    }
  }
  if (arguments.model.empty() || arguments.threads < 1 || arguments.tokens < 1) {
    fmt::print(stderr,
               "usage: bench_generation MODEL [--strategy S] [--threads N] [--tokens N] "
               "[--contexts] [--prompt N]\n");
    std::exit(2);
  }
  return arguments;
}

/// Processor time of all threads.
double cpu_seconds() { return static_cast<double>(std::clock()) / CLOCKS_PER_SEC; }

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

/// Weights that a token is multiplied with.
int64_t multiplied_weights(const model::ModelConfig& config) {
  const int64_t C = config.n_embd, A = config.att_size(), F = config.ffn_size();
  return config.n_layer * (4 * A * C + 2 * C * F + C * C) + config.vocab_size * C;
}

/// Bytes of memory that are in use.
int64_t resident_bytes() {
  std::ifstream in("/proc/self/statm");
  int64_t all = 0, resident = 0;
  in >> all >> resident;
  return resident * 4096;
}

/// Greedy tokens one by one; feeds each back.
class Writer {
 public:
  explicit Writer(model::LanguageModel& model) : model_(model) {}

  double next_s() {
    const auto start = Clock::now();
    const at::Tensor id = at::full({1, 1}, id_, at::kLong);
    const at::Tensor logits = model_.forward(id, &state_, model::Positions::kLast);
    id_ = logits.argmax().item<int64_t>();
    ++fed_;
    return seconds_since(start);
  }
  void feed_until(int64_t count) {
    while (fed_ < count) next_s();
  }

 private:
  model::LanguageModel& model_;
  model::State state_;
  int64_t id_ = 1;
  int64_t fed_ = 0;
};

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + std::ssize(values) / 2, values.end());
  return values[values.size() / 2];
}

constexpr int64_t kReadBytes = 512 << 20;

Json generation(model::LanguageModel& model, const Arguments& arguments) {
  Writer writer(model);
  writer.feed_until(3);
  std::vector<double> times;
  double read_rate = 0;
  constexpr int kRounds = 4;
  for (int round = 0; round < kRounds; ++round) {
    read_rate = std::max(read_rate, trainer::measure_read(kReadBytes, 0.3));
    for (int64_t n = 0; n < arguments.tokens / kRounds + 1; ++n) times.push_back(writer.next_s());
  }
  const double best = *std::min_element(times.begin(), times.end()), middle = median(times);
  const auto* inference = dynamic_cast<const model::InferenceModel*>(&model);
  if (inference == nullptr) throw std::runtime_error("this kind of model runs as a module");
  const auto bytes = static_cast<double>(inference->weight_bytes());
  return {{"tokens_per_s_best", 1 / best},
          {"tokens_per_s_median", 1 / middle},
          {"bytes_per_token", bytes},
          {"read_GB_per_s", read_rate / 1e9},
          {"share_of_read_rate_best", bytes / best / read_rate},
          {"share_of_read_rate_median", bytes / middle / read_rate}};
}

Json contexts(model::LanguageModel& model, int64_t tokens) {
  Writer writer(model);
  Json rows = Json::array();
  for (const int64_t context : {128, 1000, 8000}) {
    writer.feed_until(context);
    std::vector<double> times;
    for (int64_t n = 0; n < tokens; ++n) times.push_back(writer.next_s());
    rows.push_back({{"context", context},
                    {"ms_per_token_best", 1e3 * *std::min_element(times.begin(), times.end())},
                    {"ms_per_token_median", 1e3 * median(times)},
                    {"resident_MB", static_cast<double>(resident_bytes()) / 1e6}});
  }
  return rows;
}

Json prompt(model::LanguageModel& model, int64_t tokens) {
  const at::Tensor ids = at::randint(0, model.config().vocab_size, {1, tokens}, at::kLong);
  const auto& config = model.config();
  const double head = static_cast<double>(config.vocab_size * config.n_embd);
  const double operations =
      2 * ((static_cast<double>(multiplied_weights(config)) - head) * static_cast<double>(tokens) +
           head);
  std::vector<double> times;
  double product_rate = 0;
  for (int round = 0; round < 5; ++round) {
    product_rate =
        std::max(product_rate,
                 trainer::measure_products(at::kFloat, c10::Device(c10::kCPU), 1.0).flops_per_s);
    model::State state;
    const auto start = Clock::now();
    model.forward(ids, &state, model::Positions::kLast);
    times.push_back(seconds_since(start));
  }
  const double best = *std::min_element(times.begin(), times.end()), middle = median(times);
  return {{"tokens", tokens},
          {"tokens_per_s_best", static_cast<double>(tokens) / best},
          {"tokens_per_s_median", static_cast<double>(tokens) / middle},
          {"product_GFLOP_per_s", product_rate / 1e9},
          {"share_of_product_rate_best", operations / best / product_rate},
          {"share_of_product_rate_median", operations / middle / product_rate}};
}

int run(const Arguments& arguments) {
  const torch::NoGradGuard no_grad;
  at::set_num_threads(arguments.threads);
  const auto source = trainer::open_model(arguments.model, {}, arguments.strategy);
  Json result{{"strategy", arguments.strategy}, {"threads", arguments.threads}};
  const auto start = Clock::now();
  const double cpu_start = cpu_seconds();
  if (arguments.prompt > 0) {
    result["prompt"] = prompt(*source.model, arguments.prompt);
  } else if (arguments.contexts) {
    result["contexts"] = contexts(*source.model, arguments.tokens);
  } else {
    result.update(generation(*source.model, arguments));
  }
  // Well below 1: other programs took the processor, and the times tell little.
  result["cpu_share"] = (cpu_seconds() - cpu_start) / seconds_since(start) / arguments.threads;
  fmt::print("{}\n", result.dump());
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(parse(argc, argv));
  } catch (const std::exception& error) {
    fmt::print(stderr, "bench_generation: {}\n", error.what());
    return 2;
  }
}
