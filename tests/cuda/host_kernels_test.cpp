// The bodies of the CUDA kernels on the host: what the operator's own tests cannot see.
#include <ATen/core/dispatch/Dispatcher.h>
#include <gtest/gtest.h>

#include "cuda/wkv4_thread.h"
#include "tests/cuda/wkv4_twin.h"

namespace rwkv::ops {
namespace {

at::Tensor checkpoints_of(int64_t B, int64_t T, int64_t C) {
  const Wkv4Case in = random_case(B, T, C);
  std::vector<c10::IValue> stack{in.time_decay, in.time_first, in.k, in.v, {}, {}, {}, {}};
  c10::Dispatcher::singleton().findSchemaOrThrow("rwkv::wkv4_train", "").callBoxed(&stack);
  return stack.at(4).toTensor();
}

TEST(Wkv4HostKernels, AreTheOnesThatThisProgramRuns) {
  // The CPU's own kernels write a checkpoint every 32 tokens.
  for (const int64_t T : {0, 1, 16, 17, 32, 33}) {
    const int64_t chunks = std::max<int64_t>(1, (T + kWkvChunkTokens - 1) / kWkvChunkTokens);
    EXPECT_EQ(checkpoints_of(2, T, 3).sizes(), at::IntArrayRef({2, chunks, 5, 3})) << T;
  }
}

TEST(Wkv4HostKernels, FirstCheckpointIsTheEmptyState) {
  const at::Tensor first = checkpoints_of(2, 40, 3).select(1, 0);
  EXPECT_EQ(first.select(1, 0).abs().max().item<float>(), 0);
  EXPECT_TRUE((first.select(1, 2) == kWkvEmptyExponent).all().item<bool>());
}

TEST(Wkv4HostKernels, PlacesBeyond32Bits) {
  const WkvSizes sizes{.B = 40000, .T = 4099, .C = 1023, .chunks = 257};
  const int64_t i = 39999 * sizes.C + 1022;  // the last channel of the last row
  const WkvPlace place = wkv_place(sizes, i, 256);
  EXPECT_EQ(place.b, 39999);
  EXPECT_EQ(place.c, 1022);
  EXPECT_EQ(place.t, 4096);
  EXPECT_EQ(place.tokens, 3);
  EXPECT_EQ(place.at + 2 * sizes.C, sizes.B * sizes.T * sizes.C - 1);
  EXPECT_EQ(wkv_checkpoint_at(sizes, place, 256) + 4 * sizes.C,
            sizes.B * sizes.chunks * 5 * sizes.C - 1);
}

TEST(Wkv4HostKernels, BlocksCoverEveryThreadOnce) {
  EXPECT_EQ(wkv_blocks(0), 0);
  EXPECT_EQ(wkv_blocks(1), 1);
  EXPECT_EQ(wkv_blocks(64), 1);
  EXPECT_EQ(wkv_blocks(65), 2);
  EXPECT_EQ(wkv_blocks((int64_t{1} << 40) + 1), (int64_t{1} << 34) + 1);
}

}  // namespace
}  // namespace rwkv::ops
