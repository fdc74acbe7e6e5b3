#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <type_traits>

namespace rwkv::ops {

using OptionalTensor = std::optional<at::Tensor>;

/// Arguments of `rwkv::wkv4` and `rwkv::wkv4_train`, as every device's kernel receives them.
struct Wkv4Arguments {
  const at::Tensor& time_decay;
  const at::Tensor& time_first;
  const at::Tensor& k;
  const at::Tensor& v;
  const OptionalTensor& reset;
  const at::Tensor* r = nullptr;  ///< of the gated operators, like k
};

/// What the checks found.
struct Wkv4Shape {
  int64_t B, T, C;
  at::ScalarType math;  ///< type of the arithmetic, the state and the checkpoints
  int64_t tiles;        ///< checkpoints per row: ceil(T / tile_tokens), at least 1

  [[nodiscard]] at::IntArrayRef state() const { return {&sizes_state[0], 2}; }
  [[nodiscard]] at::IntArrayRef checkpoints() const { return {&sizes_checkpoints[0], 4}; }
  int64_t sizes_state[2];
  int64_t sizes_checkpoints[4];  ///< (B, tiles, 5, C): a, b, p, da, db before each tile
};

/// Checks dimensions, sizes, types and devices; the same for all devices. `tile_tokens` is the
/// number of tokens between two checkpoints of the device's kernels.
Wkv4Shape check_wkv4(const Wkv4Arguments& in, int64_t tile_tokens);
/// Checks a given state against the rest: all three tensors or none.
void check_wkv4_state(const Wkv4Arguments& in, const Wkv4Shape& shape, const OptionalTensor& a,
                      const OptionalTensor& b, const OptionalTensor& p);
/// Checks the further arguments of `rwkv::wkv4_backward`.
void check_wkv4_backward(const Wkv4Arguments& in, const Wkv4Shape& shape,
                         const at::Tensor& checkpoints, const OptionalTensor& gy,
                         const OptionalTensor& ga, const OptionalTensor& gb);

/// Calls body(std::type_identity<S>{}) with the C++ type of a storage type that check_wkv4 let
/// pass.
template <typename Body>
void with_storage_type(at::ScalarType type, const Body& body) {
  switch (type) {
    case at::kFloat:
      return body(std::type_identity<float>{});
    case at::kBFloat16:
      return body(std::type_identity<at::BFloat16>{});
    case at::kHalf:
      return body(std::type_identity<at::Half>{});
    default:
      TORCH_INTERNAL_ASSERT(type == at::kDouble, "wkv4: no kernel for ", type);
      return body(std::type_identity<double>{});
  }
}

}  // namespace rwkv::ops
