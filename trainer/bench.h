#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "model/language_model.h"
#include "trainer/config.h"

namespace rwkv::trainer {

// Measures this program on this machine, with the threads that at::get_num_threads() says. Every
// time is the median of what fitted into the budget, and stands beside the machine's own rate in
// the same process: shares can be compared between machines, seconds cannot.

struct OperatorSpeed {
  std::string name;
  int64_t elements = 0;
  double ns_per_element = 0;
  /// Time to copy as many bytes as the operator must read and write, divided by its time.
  double copy_share = 0;
};

/// WKV of [B,T,C], layer norm, cross entropy with L2Wrap of [B T, V] and Adam of that many
/// parameters, fp32, each in and out of cache as the sizes say. `budget_s` for each.
std::vector<OperatorSpeed> bench_operators(int64_t B, int64_t T, int64_t C, int64_t V,
                                           double budget_s);

/// A model of RWKV-4 and the batch of one training step.
struct StepShape {
  int64_t n_layer = 6, n_embd = 512, vocab_size = 256;  // L, C, V
  int64_t ctx_len = 256, micro_bsz = 8;                 // T, B
  Precision precision = Precision::kFp32;
};

struct PartSpeed {
  std::string name;
  double forward_s = 0, backward_s = 0, products_s = 0;  // a step
};

struct StepSpeed {
  int64_t parameters = 0;
  int64_t steps = 0;  // measured
  double step_s = 0, tokens_per_s = 0;
  double flops_per_token = 0;      // trainer/flops.h
  double product_flops_per_s = 0;  // square products in this process
  double bare_s = 0;       // the three products of every matrix at these shapes, nothing else
  int64_t peak_bytes = 0;  // of the process after a few steps, before anything else ran in it
  std::vector<PartSpeed> parts;

  [[nodiscard]] double product_share() const {
    return tokens_per_s * flops_per_token / product_flops_per_s;
  }
  [[nodiscard]] double bare_share() const { return bare_s / step_s; }
};

/// Training steps (forward, loss, backward, clipping, Adam) of a model with random weights on
/// random tokens, alternating with the bare products, for about `budget_s` seconds and at least
/// three of each; then eight steps under the profile, which slows them and is not counted.
StepSpeed bench_step(const StepShape& shape, double budget_s);

struct GenerationPoint {
  int64_t context = 0;  // tokens before
  double prefill_s = 0;
  double token_s = 0;
  int64_t memory_bytes = 0;  // resident, while tokens are drawn
};

struct GenerationSpeed {
  int64_t weight_bytes = 0;     // read for each token: all but the embedding
  double read_bytes_per_s = 0;  // sum over memory far larger than the caches
  std::vector<GenerationPoint> points;

  /// The best token's rate of weights, as a share of the read rate.
  [[nodiscard]] double read_share() const;
  /// Largest over smallest, minus 1.
  [[nodiscard]] double time_spread() const;
  [[nodiscard]] double memory_spread() const;
};

/// Draws `tokens` tokens, greedily, after each of the `contexts`; `on_progress` says what runs.
GenerationSpeed bench_generation(model::LanguageModel& model, const std::vector<int64_t>& contexts,
                                 int64_t tokens,
                                 const std::function<void(const std::string&)>& on_progress);

}  // namespace rwkv::trainer
