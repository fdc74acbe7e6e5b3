#pragma once

#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace rwkv::data {

/// Byte strings of up to 255 bytes and their ids, for a look-up per word of a text: open addressing
/// with the first eight bytes in the slot, so that most words are decided there.
class PieceTable {
 public:
  /// Room for `count` strings.
  explicit PieceTable(size_t count);

  /// Adds a string that is not there yet. Longer ones than kMaxBytes and empty ones are left out.
  void insert(std::string_view piece, uint32_t id);
  [[nodiscard]] std::optional<uint32_t> find(std::string_view piece) const {
    if (piece.size() > kMaxBytes) return std::nullopt;
    const uint64_t head = head_of(piece);
    for (size_t at = hash(piece, head) & mask_;; at = (at + 1) & mask_) {
      const Slot& slot = slots_[at];
      if (slot.length == 0) return std::nullopt;
      if (slot.head == head && slot.length == piece.size() &&
          (piece.size() <= sizeof head ||
           std::memcmp(tails_.data() + slot.tail, piece.data() + sizeof head,
                       piece.size() - sizeof head) == 0)) {
        return slot.id;
      }
    }
  }

  static constexpr size_t kMaxBytes = 255;

 private:
  struct Slot {
    uint64_t head = 0;  // the first eight bytes, zeros behind shorter ones
    uint32_t tail = 0;  // where the rest lies in tails_
    uint32_t id = 0;
    uint32_t length = 0;  // 0: free
  };

  static uint64_t head_of(std::string_view piece) {
    uint64_t head = 0;
    std::memcpy(&head, piece.data(), piece.size() < sizeof head ? piece.size() : sizeof head);
    return head;
  }
  static uint64_t hash(std::string_view piece, uint64_t head) {
    constexpr uint64_t kMultiplier = 0x9E3779B97F4A7C15U;
    uint64_t value = (head ^ piece.size()) * kMultiplier;
    for (size_t at = sizeof head; at < piece.size(); at += sizeof head) {
      value = (value ^ (value >> 29) ^ head_of(piece.substr(at))) * kMultiplier;
    }
    return value ^ (value >> 32);
  }

  std::vector<Slot> slots_;
  size_t mask_;
  std::string tails_;
};

}  // namespace rwkv::data
