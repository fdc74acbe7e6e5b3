#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

namespace rwkv::data {

/// Two neighbours and the token they become. The rank of a merge is its place in the list.
struct BpeMerge {
  uint32_t left;
  uint32_t right;
  uint32_t merged;
};

/// Byte-pair encoding of single pieces (Sennrich et al. 2016, arXiv:1508.07909): starts from bytes
/// and merges the neighbours of lowest rank, the leftmost among equals, until none is listed.
class BpeMerges {
 public:
  /// byte_ids: the token of each byte. merges: in order of rank, no pair twice.
  BpeMerges(const std::array<uint32_t, 256>& byte_ids, std::span<const BpeMerge> merges);

  /// Appends the ids of `piece`. n log n for any length.
  void encode(std::string_view piece, std::vector<int64_t>& out) const;

 private:
  static constexpr uint32_t kNoRank = ~0U;
  struct Slot {
    uint64_t pair = ~uint64_t{0};
    uint32_t rank = kNoRank;
    uint32_t merged = 0;
  };
  [[nodiscard]] const Slot& find(uint32_t left, uint32_t right) const;
  void encode_short(std::string_view piece, std::vector<int64_t>& out) const;
  void encode_long(std::string_view piece, std::vector<int64_t>& out) const;

  std::array<uint32_t, 256> byte_ids_;
  std::vector<Slot> slots_;
  size_t mask_;
};

}  // namespace rwkv::data
