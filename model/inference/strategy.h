#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace rwkv::model {

/// How the matrices of a block are kept. Activations are float32 whatever the weights are.
enum class WeightForm : uint8_t {
  kFp32,
  kBf16,
  kFp16,
  kI8,      ///< bytes as the `rwkv` package quantises them, see quantise.h
  kI8Seed,  ///< bytes with the scales of RWKV-LM's README, see quantise.h
};

/// Where one block (or, as the last slot, ln_out and head) lies.
struct Slot {
  std::string device;  ///< "cpu", "cuda", "cuda:1", "mps", "dml"
  WeightForm form = WeightForm::kFp32;
  /// Matrices stay in the mapped file and are read from there for each use. The last slot is never
  /// streamed.
  bool streamed = false;

  bool operator==(const Slot&) const = default;
};

/// What `--strategy` is when it is not given.
inline constexpr const char* kDefaultStrategy = "cpu fp32";

/// The n_layer + 1 slots of a strategy in the grammar of the `rwkv` package (ChatRWKV
/// `rwkv_pip_package/src/rwkv/model.py`, STRATEGY_REGEX and what follows it):
///
///   strategy = stage { "->" stage }
///   stage    = device dtype [ "i8" | "i8-seed" ] [ "*" N [ "+" ] ]
///   device   = cpu | cuda | cuda:K | mps | dml          dtype = fp32 | fp16 | bf16
///
/// "*N" takes N slots in the order of the stages, at most what is left; stages without a count
/// share the rest equally, and the last stage takes the remainder. With "+" (the last one counts)
/// that stage takes all slots that nobody asked for, as streamed ones behind its N resident ones,
/// and stages without a count get none. Beyond the package: "i8-seed", and a lone "fp32", "bf16",
/// "fp16", "i8" or "i8-seed" means "cpu fp32" and so on ("cpu fp32i8" for "i8").
///
/// Throws UserError with one line for anything else. `option` names where the text comes from.
std::vector<Slot> plan_strategy(std::string_view text, int64_t n_layer,
                                std::string_view option = "--strategy");

/// Whether the package would run this strategy with its guard against the overflow of fp16: some
/// stage is of fp16.
bool names_fp16(std::string_view strategy);

}  // namespace rwkv::model
