#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "trainer/dataset.h"

namespace rwkv::trainer {

/// What one forward pass in training reads.
struct Batch {
  at::Tensor inputs, targets;  // int64 [B,T]
  at::Tensor mask;  // float32 [B,T], weights of the targets in the loss; undefined: all equal
};

/// Samples first_ordinal ... first_ordinal + rows - 1 of the training text (ordinals count from 1
/// over the whole run), on `device`. Throws UserError for a token outside the vocabulary.
Batch training_batch(const Dataset& data, uint64_t first_ordinal, int64_t rows, int64_t ctx_len,
                     at::Device device);

}  // namespace rwkv::trainer
