#pragma once

#include <cstdint>

#include "cuda/wkv4_tile.h"

namespace rwkv::ops {

/// The float loops as one instruction set runs them. All are leaf functions on raw pointers.
struct WkvVectorKernels {
  void (*forward)(const WkvForwardTile<float>& tile);           ///< without da, db
  void (*forward_training)(const WkvForwardTile<float>& tile);  ///< with da, db
  void (*backward)(const WkvBackwardTile<float>& tile);
  // Conversions of 16-bit storage; narrowing goes to nearest, ties to even.
  void (*widen_bf16)(const uint16_t* from, float* to, int64_t count);
  void (*narrow_bf16)(const float* from, uint16_t* to, int64_t count);
  void (*widen_fp16)(const uint16_t* from, float* to, int64_t count);
  void (*narrow_fp16)(const float* from, uint16_t* to, int64_t count);
};

extern const WkvVectorKernels kWkvKernelsDefault;
extern const WkvVectorKernels kWkvKernelsAvx2;    ///< x86-64 builds only
extern const WkvVectorKernels kWkvKernelsAvx512;  ///< x86-64 builds only

}  // namespace rwkv::ops
