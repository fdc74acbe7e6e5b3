#pragma once

#include <array>
#include <cstdint>

#include "trainer/config_names.h"

namespace rwkv::trainer {

/// In which numbers gradients are summed over ranks.
enum class ReducePrecision { kFp32, kBf16 };
inline constexpr std::array kReducePrecisionNames = {Named{ReducePrecision::kFp32, "fp32"},
                                                     Named{ReducePrecision::kBf16, "bf16"}};

/// Training with several processes (trainer/distributed). One process alone reads none of it.
struct DistributedConfig {
  int64_t zero = 0;
  int64_t bucket_mib = 25;
  ReducePrecision reduce = ReducePrecision::kFp32;
  int64_t timeout_s = 600;
  int64_t drift_every = 1000;

  bool operator==(const DistributedConfig&) const = default;

  template <typename Self, typename Visitor>
  static void visit(Self& self, Visitor& v) {
    v.integer("zero", self.zero, 0, 1,
              "1 = ZeRO-1: each rank keeps its share of masters and moments, same result");
    v.integer("bucket_mib", self.bucket_mib, 1, 65536,
              "gradients travel in pieces of that many MiB of fp32, the first ones while the "
              "backward still runs");
    v.choice("reduce", self.reduce, kReducePrecisionNames, "numbers in which gradients are summed");
    v.integer("timeout_s", self.timeout_s, 1, 86400,
              "a rank that keeps the others waiting for that long ends the run");
    v.count("drift_every", self.drift_every, 0, 1000000000,
            "compare the weights of all ranks each N steps; 0 = only before checkpoints");
  }
};

}  // namespace rwkv::trainer
