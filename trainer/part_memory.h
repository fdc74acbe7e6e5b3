#pragma once

#include <c10/core/Allocator.h>

#include <cstdint>
#include <mutex>
#include <unordered_map>
#include <vector>

namespace rwkv::trainer {

/// Follows the tensors' memory on the CPU while training steps run, by the part of the step that
/// allocated it: what the forward pass keeps for the backward, and the most that a part held.
///
/// LibTorch's allocator calls reportMemoryUsage on threads where this object is installed as
/// c10::DebugInfoKind::PROFILER_STATE. Memory from before that is not seen. Thread-safe.
class PartMemory : public c10::MemoryReportingInfoBase {
 public:
  struct Part {
    int64_t live = 0;     // bytes held now
    int64_t kept = 0;     // at the start of the last backward pass
    int64_t largest = 0;  // the most at any time
  };

  /// Memory that is allocated from now on belongs to this part.
  void set_part(int part);
  /// The forward pass is over: what lives now is what it keeps.
  void forward_is_over();
  /// Forgets the largest values, not what is alive.
  void reset();

  /// Indexed by part.
  [[nodiscard]] std::vector<Part> parts() const;
  /// The most that was alive at once, of all parts together.
  [[nodiscard]] int64_t peak() const;

  void reportMemoryUsage(void* block, int64_t size, size_t total_allocated, size_t total_reserved,
                         c10::Device device) override;
  [[nodiscard]] bool memoryProfilingEnabled() const override { return true; }

 private:
  struct Block {
    int64_t size;
    size_t part;
  };

  mutable std::mutex mutex_;
  size_t part_ = 0;
  std::vector<Part> parts_{1};
  std::unordered_map<void*, Block> blocks_;
  int64_t live_ = 0;
  int64_t peak_ = 0;
};

}  // namespace rwkv::trainer
