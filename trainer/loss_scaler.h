#pragma once

#include <cstdint>

namespace rwkv::trainer {

/// The dynamic loss scale of float16 training: gradients are computed of loss * scale, so that
/// small ones do not vanish. DeepSpeed's rule (deepspeedai/DeepSpeed
/// `deepspeed/runtime/fp16/loss_scaler.py`): the second overflow halves the scale, 1000 updates
/// without one double it and bring the patience back, 1 is the floor. A plain value: all of it is
/// stored in checkpoints.
struct LossScaler {
  double scale = 1;  // 1 stays 1 where scaling is off
  bool enabled = false;
  int64_t hysteresis = kHysteresis;  // overflows left before the scale is halved
  int64_t good_steps = 0;            // updates since the last overflow or doubling

  static constexpr int64_t kHysteresis = 2;
  static constexpr int64_t kWindow = 1000;
  static constexpr double kFloor = 1;

  /// After each backward pass: whether its gradients overflowed.
  void update(bool overflow);
  /// Whether another overflow cannot be answered by a smaller scale.
  [[nodiscard]] bool at_floor() const { return scale <= kFloor; }
};

}  // namespace rwkv::trainer
