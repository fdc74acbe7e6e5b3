#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace rwkv::trainer {

/// While it lives, adds up the time of every operator, without that of the operators it calls.
/// Costs a few per cent; one at a time.
class OperatorProfile {
 public:
  OperatorProfile();
  OperatorProfile(const OperatorProfile&) = delete;
  OperatorProfile& operator=(const OperatorProfile&) = delete;
  ~OperatorProfile();

  /// Forgets what was measured so far (after the first steps, which allocate and warm up).
  void reset();

  /// A table of operators by time, with the share of matrix products and of what lies outside all
  /// operators.
  [[nodiscard]] std::string table() const;

 private:
  uint64_t handle_ = 0;
  std::chrono::steady_clock::time_point start_;
};

}  // namespace rwkv::trainer
