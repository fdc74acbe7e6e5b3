#include "trainer/bench.h"

#include <ATen/Parallel.h>
#include <fmt/format.h>
#include <unistd.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "data/base/error.h"
#include "model/factory.h"
#include "model/init.h"
#include "trainer/apps/commands.h"
#include "trainer/exit_code.h"
#include "trainer/model_source.h"

namespace rwkv::apps {
namespace {

using nlohmann::ordered_json;

struct Arguments {
  trainer::StepShape shape;
  std::string precision = "fp32";
  std::string model;
  std::vector<int64_t> contexts{128, 1000, 8000};
  int64_t tokens = 32;
  int threads = 0;
  double seconds = 10;
  bool json = false;
};

/// Every number that a user can give is checked here, so that none reaches an allocation.
void check(const Arguments& a) {
  const trainer::StepShape& s = a.shape;
  const auto in_range = [](const char* option, int64_t value, int64_t most) {
    if (value < 1 || value > most) user_error("{}: {} is not in 1..{}", option, value, most);
  };
  in_range("--layers", s.n_layer, 1000);
  in_range("--width", s.n_embd, 65536);
  in_range("--vocab", s.vocab_size, 1 << 24);
  in_range("--ctx-len", s.ctx_len, 1 << 20);
  in_range("--batch", s.micro_bsz, 65536);
  in_range("--tokens", a.tokens, 100000);
  for (const int64_t context : a.contexts) in_range("--at", context, 1 << 24);
  if (a.threads < 0 || a.threads > 1024) user_error("--threads: {} is not in 0..1024", a.threads);
  if (!(a.seconds > 0 && a.seconds <= 3600)) {
    user_error("--seconds: {} is no time; use more than 0 and at most 3600", a.seconds);
  }
}

void start(const Arguments& a) {
  check(a);
  if (a.threads > 0) at::set_num_threads(a.threads);
}

void say(const Arguments& a, const std::string& what) {
  if (!a.json && ::isatty(STDERR_FILENO) == 1) fmt::print(stderr, "{} ...\n", what);
}

void print(const ordered_json& out) { fmt::print("{}\n", out.dump(2)); }

int operators(const Arguments& a) {
  start(a);
  const trainer::StepShape& s = a.shape;
  say(a, "measuring operators");
  const auto speeds =
      trainer::bench_operators(s.micro_bsz, s.ctx_len, s.n_embd, s.vocab_size, a.seconds / 5);
  if (a.json) {
    ordered_json rows = ordered_json::array();
    for (const auto& speed : speeds) {
      rows.push_back({{"operator", speed.name},
                      {"elements", speed.elements},
                      {"ns_per_element", speed.ns_per_element},
                      {"copy_share", speed.copy_share}});
    }
    print({{"threads", at::get_num_threads()}, {"operators", rows}});
    return trainer::kFinished;
  }
  fmt::print("operators, fp32, B{} T{} C{} V{}, {} threads\n{:<44} {:>12} {:>14}\n", s.micro_bsz,
             s.ctx_len, s.n_embd, s.vocab_size, at::get_num_threads(), "", "ns/element",
             "of copy rate");
  for (const auto& speed : speeds) {
    fmt::print("{:<44} {:>12.3f} {:>12.0f} %\n", speed.name, speed.ns_per_element,
               100 * speed.copy_share);
  }
  return trainer::kFinished;
}

int step(Arguments a) {
  start(a);
  trainer::StepShape& s = a.shape;
  s.precision = a.precision == "bf16" ? trainer::Precision::kBf16 : trainer::Precision::kFp32;
  say(a, "measuring training steps");
  const trainer::StepSpeed speed = trainer::bench_step(s, a.seconds);
  if (a.json) {
    ordered_json parts = ordered_json::array();
    for (const auto& part : speed.parts) {
      parts.push_back({{"part", part.name},
                       {"forward_s", part.forward_s},
                       {"backward_s", part.backward_s},
                       {"products_s", part.products_s}});
    }
    print({{"threads", at::get_num_threads()},
           {"parameters", speed.parameters},
           {"steps", speed.steps},
           {"step_s", speed.step_s},
           {"tokens_per_s", speed.tokens_per_s},
           {"product_flops_per_s", speed.product_flops_per_s},
           {"product_share", speed.product_share()},
           {"bare_s", speed.bare_s},
           {"bare_share", speed.bare_share()},
           {"peak_bytes", speed.peak_bytes},
           {"parts", parts}});
    return trainer::kFinished;
  }
  fmt::print(
      "training step, {}, L{} C{} T{} B{} V{}, {} threads: {:.1f} M parameters, median of {} "
      "steps\n"
      "{:.0f} tokens/s, {:.1f} ms a step\n"
      "{:.1f} % of the product rate ({:.0f} GFLOP/s), {:.1f} % of the bare products ({:.1f} ms)\n"
      "peak memory {:.2f} GB\n\n{:<24} {:>10} {:>10} {:>10}\n",
      a.precision, s.n_layer, s.n_embd, s.ctx_len, s.micro_bsz, s.vocab_size, at::get_num_threads(),
      static_cast<double>(speed.parameters) / 1e6, speed.steps, speed.tokens_per_s,
      speed.step_s * 1e3, 100 * speed.product_share(), speed.product_flops_per_s / 1e9,
      100 * speed.bare_share(), speed.bare_s * 1e3, static_cast<double>(speed.peak_bytes) / 1e9,
      "part, ms a step", "forward", "backward", "products");
  for (const auto& part : speed.parts) {
    fmt::print("{:<24} {:>10.2f} {:>10.2f} {:>10.2f}\n", part.name, part.forward_s * 1e3,
               part.backward_s * 1e3, part.products_s * 1e3);
  }
  return trainer::kFinished;
}

std::shared_ptr<model::LanguageModel> model_of(const Arguments& a) {
  if (!a.model.empty()) return trainer::open_model(a.model).model;
  model::ModelConfig config;
  config.n_layer = a.shape.n_layer;
  config.n_embd = a.shape.n_embd;
  config.vocab_size = a.shape.vocab_size;
  auto model = model::build_model(config);
  model::init_weights(*model, 42, 1e-4);
  model->eval();
  return model;
}

int generation(const Arguments& a) {
  start(a);
  const auto model = model_of(a);
  const trainer::GenerationSpeed speed = trainer::bench_generation(
      *model, a.contexts, a.tokens, [&](const std::string& what) { say(a, what); });
  if (a.json) {
    ordered_json points = ordered_json::array();
    for (const auto& point : speed.points) {
      points.push_back({{"context", point.context},
                        {"prefill_s", point.prefill_s},
                        {"token_s", point.token_s},
                        {"tokens_per_s", 1 / point.token_s},
                        {"memory_bytes", point.memory_bytes}});
    }
    print({{"threads", at::get_num_threads()},
           {"weight_bytes", speed.weight_bytes},
           {"read_bytes_per_s", speed.read_bytes_per_s},
           {"read_share", speed.read_share()},
           {"time_spread", speed.time_spread()},
           {"memory_spread", speed.memory_spread()},
           {"points", points}});
    return trainer::kFinished;
  }
  const model::ModelConfig& m = model->config();
  fmt::print(
      "generation, L{} C{} V{}, {} threads: {:.1f} MB of weights a token, read rate {:.1f} GB/s\n"
      "{:>14} {:>14} {:>14} {:>14} {:>14}\n",
      m.n_layer, m.n_embd, m.vocab_size, at::get_num_threads(),
      static_cast<double>(speed.weight_bytes) / 1e6, speed.read_bytes_per_s / 1e9, "after tokens",
      "prompt, s", "ms a token", "tokens/s", "memory, MB");
  for (const auto& point : speed.points) {
    fmt::print("{:>14} {:>14.2f} {:>14.2f} {:>14.1f} {:>14.1f}\n", point.context, point.prefill_s,
               point.token_s * 1e3, 1 / point.token_s,
               static_cast<double>(point.memory_bytes) / 1e6);
  }
  fmt::print(
      "{:.0f} % of the read rate; from context to context the time of a token differs by {:.1f} %, "
      "memory by {:.1f} %\n",
      100 * speed.read_share(), 100 * speed.time_spread(), 100 * speed.memory_spread());
  return trainer::kFinished;
}

void add_shape(CLI::App& command, Arguments& a, bool batch) {
  command.add_option("--width", a.shape.n_embd, "Width C")->capture_default_str();
  command.add_option("--vocab", a.shape.vocab_size, "Vocabulary V")->capture_default_str();
  if (batch) {
    command.add_option("--ctx-len", a.shape.ctx_len, "Tokens of a window T")->capture_default_str();
    command.add_option("--batch", a.shape.micro_bsz, "Windows B")->capture_default_str();
    command.add_option("--seconds", a.seconds, "How long to measure")->capture_default_str();
  }
  command.add_option("--threads", a.threads, "CPU threads; 0 = all cores")->capture_default_str();
  command.add_flag("--json", a.json, "Print JSON");
}

}  // namespace

void add_bench(CLI::App& program, int& exit_code) {
  auto* command = program.add_subcommand("bench", "Measure operators, training steps, generation");
  command->require_subcommand(1);

  auto ops = std::make_shared<Arguments>();
  auto* operators_command = command->add_subcommand(
      "operators", "Time of operators, and share of a memory copy of the same bytes");
  add_shape(*operators_command, *ops, /*batch=*/true);
  operators_command->callback([ops, &exit_code] { exit_code = operators(*ops); });

  auto training = std::make_shared<Arguments>();
  auto* step_command = command->add_subcommand(
      "step", "A training step: tokens/s, share of matrix products, parts, peak memory");
  step_command->add_option("--layers", training->shape.n_layer, "Layers L")->capture_default_str();
  step_command->add_option("--precision", training->precision, "fp32 or bf16")
      ->check(CLI::IsMember({"fp32", "bf16"}))
      ->capture_default_str();
  add_shape(*step_command, *training, /*batch=*/true);
  step_command->callback([training, &exit_code] { exit_code = step(*training); });

  auto writing = std::make_shared<Arguments>();
  writing->shape = {.n_layer = 12, .n_embd = 768, .vocab_size = 50277};
  auto* generation_command = command->add_subcommand(
      "generation", "Tokens/s, share of the memory's read rate, time and memory by context");
  generation_command->add_option("--model", writing->model,
                                 "Weights to measure with, instead of random ones");
  generation_command->add_option("--layers", writing->shape.n_layer, "Layers L")
      ->capture_default_str();
  generation_command
      ->add_option("--at", writing->contexts, "Lengths of context, e.g. 128,1000,8000")
      ->delimiter(',');
  generation_command->add_option("--tokens", writing->tokens, "Tokens to draw at each")
      ->capture_default_str();
  add_shape(*generation_command, *writing, /*batch=*/false);
  generation_command->callback([writing, &exit_code] { exit_code = generation(*writing); });
}

}  // namespace rwkv::apps
