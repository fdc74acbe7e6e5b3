#pragma once

#include <cstdint>

#include "trainer/config.h"

namespace rwkv::trainer {

/// What memory depends on: the model, the batch of one device and how many devices share what.
struct MemoryQuestion {
  model::ModelConfig model;  // vocab_size set
  Precision precision = Precision::kFp32;
  int64_t ctx_len = 1024;
  int64_t micro_bsz = 1;
  bool grad_accumulates = false;  // several micro-batches a step
  bool grad_cp = false;
  bool dropout = false;
  int64_t devices = 1;
  int64_t zero = 0;  // ZeRO level: 1 shares masters and moments, 2 gradients too, 3 weights too

  [[nodiscard]] int64_t tokens() const { return ctx_len * micro_bsz; }
};

MemoryQuestion memory_question(const RunConfig& config);

/// Bytes on one device at the fullest moment of a training step.
struct MemoryParts {
  double weights = 0;      // as they compute
  double masters = 0;      // fp32 weights that learn, where those above have 16 bits
  double moments = 0;      // Adam's two
  double gradients = 0;    // those that exist at that moment
  double activations = 0;  // kept for the backward pass
  double logits = 0;       // logits, their softmax, their gradient
  double workspace = 0;    // what the running operator needs, buffers of communication

  [[nodiscard]] double total() const {
    return weights + masters + moments + gradients + activations + logits + workspace;
  }
};

/// Parameters of RWKV-4 (arXiv:2305.13048, appendix on parameter counts, and Head-QK's): with the
/// usual sizes 2 V C + L (13 C^2 + 11 C) + 4 C.
int64_t parameter_count(const model::ModelConfig& model);

/// Weights in matrix products, as matrix_product_weights() counts them of a model
/// (trainer/flops.h).
int64_t product_weights(const model::ModelConfig& model);

/// Bytes that one token of one average layer keeps for the backward pass, all operators together.
double activation_bytes_per_token_and_layer(const MemoryQuestion& question);

/// The fullest moment of a step: the loss, the backward pass of some layer, or the update. Counted
/// from what our operators keep (the lists in memory_model.cpp), without the program itself.
MemoryParts peak_memory(const MemoryQuestion& question);

/// What the program takes beside its tensors, on a processor: code, libraries, buffers of matrix
/// products. Measured.
inline constexpr double kProgramBytes = 190e6;
/// What a GPU keeps for itself: context, libraries, fragments. An assumption.
inline constexpr double kGpuReserveBytes = 2.5e9;

/// The largest micro_bsz whose peak fits into `bytes` (program or reserve included); 0 for none.
int64_t largest_micro_bsz(MemoryQuestion question, double bytes);

}  // namespace rwkv::trainer
