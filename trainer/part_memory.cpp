#include "trainer/part_memory.h"

#include <algorithm>

namespace rwkv::trainer {

void PartMemory::set_part(int part) {
  const std::lock_guard lock(mutex_);
  part_ = static_cast<size_t>(part);
  if (parts_.size() <= part_) parts_.resize(part_ + 1);
}

void PartMemory::forward_is_over() {
  const std::lock_guard lock(mutex_);
  for (Part& part : parts_) part.kept = part.live;
}

void PartMemory::reset() {
  const std::lock_guard lock(mutex_);
  for (Part& part : parts_) part.largest = part.live;
  peak_ = live_;
}

std::vector<PartMemory::Part> PartMemory::parts() const {
  const std::lock_guard lock(mutex_);
  return parts_;
}

int64_t PartMemory::peak() const {
  const std::lock_guard lock(mutex_);
  return peak_;
}

void PartMemory::reportMemoryUsage(void* block, int64_t size, size_t /*total_allocated*/,
                                   size_t /*total_reserved*/, c10::Device device) {
  if (!device.is_cpu()) return;
  const std::lock_guard lock(mutex_);
  if (size > 0) {
    blocks_[block] = {size, part_};
    Part& part = parts_[part_];
    part.live += size;
    part.largest = std::max(part.largest, part.live);
    live_ += size;
    peak_ = std::max(peak_, live_);
    return;
  }
  const auto found = blocks_.find(block);
  if (found == blocks_.end()) return;  // from before this object was installed
  parts_[found->second.part].live -= found->second.size;
  live_ -= found->second.size;
  blocks_.erase(found);
}

}  // namespace rwkv::trainer
