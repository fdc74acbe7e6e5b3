#pragma once

#include <c10/core/Device.h>
#include <c10/core/ScalarType.h>

#include <cstdint>

namespace rwkv::trainer {

/// How fast a machine multiplies square matrices.
struct ProductRate {
  double flops_per_s = 0;  // 2 size^3 operations a product, the fastest product that was seen
  int64_t size = 0;        // rows and columns
};

/// Measures matrix products of `dtype` on `device` for about `budget_s` seconds, with the threads
/// that at::get_num_threads() says and the largest size up to 2048 of which several products fit
/// into the budget. Uses no random numbers. On a processor that is slow for this type one product
/// may take longer than the budget.
ProductRate measure_products(c10::ScalarType dtype, c10::Device device, double budget_s);

/// Bytes a second, read and written both counted, of copying `size_bytes` in memory for about
/// `budget_s` seconds. Choose a size well above the caches.
double measure_copy(int64_t size_bytes, double budget_s);

/// Bytes a second of reading `size_bytes` in memory from end to end on all of LibTorch's threads:
/// what bounds the generation of one token at a time. Choose a size well above the caches.
double measure_read(int64_t size_bytes, double budget_s);

}  // namespace rwkv::trainer
