#include "trainer/loss_scaler.h"

#include <algorithm>

namespace rwkv::trainer {

void LossScaler::update(bool overflow) {
  if (!enabled) return;
  if (overflow) {
    good_steps = 0;
    hysteresis -= 1;
    if (hysteresis > 0) return;
    scale = std::max(scale / 2, kFloor);
    hysteresis = 1;  // further overflows halve it at once, until a window has passed without one
    return;
  }
  good_steps += 1;
  if (good_steps % kWindow != 0) return;
  scale *= 2;
  hysteresis = kHysteresis;
}

}  // namespace rwkv::trainer
