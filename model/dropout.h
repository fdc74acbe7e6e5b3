#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace rwkv::model {

/// Inverted dropout: keeps an element with probability 1 - p and then divides it by that. The mask
/// is a function of (seed, site) alone, so a recomputed block and a resumed run draw the same one.
/// Sites of RWKV-4 as in RWKV-LM `RWKV-v4neo/src/model.py`: 0 after the embedding, then two a
/// block, after the residual sums of its first and of its second half.
class Dropout {
 public:
  /// No dropout.
  Dropout() = default;
  /// p: in [0,1).
  Dropout(double p, uint64_t seed);

  /// Whether it changes anything.
  [[nodiscard]] bool active() const { return p_ != 0; }

  /// x: any shape; the result has the same.
  at::Tensor operator()(const at::Tensor& x, int64_t site) const;

 private:
  double p_ = 0;
  uint64_t seed_ = 0;
};

}  // namespace rwkv::model
