#include "cuda/rows_cpu.h"

#include "cuda/wkv4_cpu.h"
#include "cuda/wkv4_vector.h"

namespace rwkv::ops {
namespace {

const uint16_t* bits(const void* from) { return static_cast<const uint16_t*>(from); }
uint16_t* bits(void* to) { return static_cast<uint16_t*>(to); }

}  // namespace

template <>
const RowKernels<float>& row_kernels<float>() {
#if defined(RWKV_X86_64)
  if (&wkv_vector_kernels() == &kWkvKernelsAvx512) return kRowKernelsAvx512;
  if (&wkv_vector_kernels() == &kWkvKernelsAvx2) return kRowKernelsAvx2;
#endif
  return kRowKernelsDefault;
}
template <>
const RowKernels<double>& row_kernels<double>() {
  return kRowKernelsDouble;
}

void widen(const at::BFloat16* from, float* to, int64_t n) {
  wkv_vector_kernels().widen_bf16(bits(from), to, n);
}
void widen(const at::Half* from, float* to, int64_t n) {
  wkv_vector_kernels().widen_fp16(bits(from), to, n);
}
void narrow(const float* from, at::BFloat16* to, int64_t n) {
  wkv_vector_kernels().narrow_bf16(from, bits(to), n);
}
void narrow(const float* from, at::Half* to, int64_t n) {
  wkv_vector_kernels().narrow_fp16(from, bits(to), n);
}

}  // namespace rwkv::ops
