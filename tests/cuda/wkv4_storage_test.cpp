// Conversions between float32 and 16-bit storage, against LibTorch's own, in every instruction set
// that this processor runs.
#include <ATen/Version.h>
#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <string>
#include <vector>

#include "cuda/wkv4_vector.h"

namespace rwkv::ops {
namespace {

std::vector<const WkvVectorKernels*> runnable_kernels() {
  std::vector<const WkvVectorKernels*> kernels{&kWkvKernelsDefault};
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("f16c")) {
    kernels.push_back(&kWkvKernelsAvx2);
  }
  if (__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")) {
    kernels.push_back(&kWkvKernelsAvx512);
  }
#endif
  return kernels;
}

/// A float of every exponent and sign with scattered mantissas, and the ones where rounding turns.
std::vector<float> many_floats() {
  std::vector<float> floats;
  for (uint64_t bits = 0; bits <= 0xFFFFFFFFU; bits += 4099) {
    floats.push_back(std::bit_cast<float>(static_cast<uint32_t>(bits)));
  }
  for (uint32_t half = 0; half < 0x10000U; ++half) {
    const float value = c10::Half(static_cast<uint16_t>(half), c10::Half::from_bits());
    // Half a step up, and its neighbours: ties go to even.
    const auto tie = std::bit_cast<uint32_t>(value) + 0x1000U;
    for (const uint32_t bits : {tie - 1, tie, tie + 1}) {
      floats.push_back(std::bit_cast<float>(bits));
    }
  }
  for (const float edge : {65504.0F, 65519.99F, 65520.0F, 65536.0F, 0x1p-24F, 0x1p-25F, 0x1.8p-25F,
                           0x1p-14F, 0x1.ffcp-15F, INFINITY, NAN}) {
    floats.insert(floats.end(), {edge, -edge});
  }
  return floats;
}

/// Equal bits, or both not a number.
bool same(float ours, float theirs) {
  return std::bit_cast<uint32_t>(ours) == std::bit_cast<uint32_t>(theirs) ||
         (std::isnan(ours) && std::isnan(theirs));
}

template <typename Storage, typename Widen>
void expect_widens_all(Widen widen) {
  std::vector<uint16_t> all(0x10000);
  for (uint32_t bits = 0; bits < all.size(); ++bits) all[bits] = static_cast<uint16_t>(bits);
  std::vector<float> ours(all.size());
  widen(all.data(), ours.data(), static_cast<int64_t>(all.size()));
  for (uint32_t bits = 0; bits < all.size(); ++bits) {
    const float theirs = Storage(all[bits], Storage::from_bits());
    ASSERT_TRUE(same(ours[bits], theirs)) << bits << " " << ours[bits] << " " << theirs;
  }
}

template <typename Storage, typename Narrow>
void expect_narrows(Narrow narrow, const std::vector<float>& floats) {
  std::vector<uint16_t> ours(floats.size());
  narrow(floats.data(), ours.data(), static_cast<int64_t>(floats.size()));
  for (size_t i = 0; i < floats.size(); ++i) {
    const Storage ours_i(ours[i], Storage::from_bits());
    const Storage theirs(floats[i]);
    ASSERT_TRUE(ours_i.x == theirs.x || (std::isnan(float(ours_i)) && std::isnan(float(theirs))))
        << floats[i] << " " << ours_i.x << " " << theirs.x;
  }
}

TEST(Wkv4Storage, WidensEvery16BitNumber) {
  for (const WkvVectorKernels* kernels : runnable_kernels()) {
    expect_widens_all<c10::Half>(kernels->widen_fp16);
    expect_widens_all<c10::BFloat16>(kernels->widen_bf16);
  }
}

TEST(Wkv4Storage, NarrowsToNearestEven) {
  const std::vector<float> floats = many_floats();
  for (const WkvVectorKernels* kernels : runnable_kernels()) {
    expect_narrows<c10::Half>(kernels->narrow_fp16, floats);
    expect_narrows<c10::BFloat16>(kernels->narrow_bf16, floats);
  }
}

}  // namespace
}  // namespace rwkv::ops
