#include "data/tokenizers/piece_table.h"

#include <bit>

namespace rwkv::data {

PieceTable::PieceTable(size_t count)
    : slots_(std::bit_ceil(2 * count + 1)), mask_(slots_.size() - 1) {}

void PieceTable::insert(std::string_view piece, uint32_t id) {
  if (piece.empty() || piece.size() > kMaxBytes) return;
  const uint64_t head = head_of(piece);
  size_t at = hash(piece, head) & mask_;
  while (slots_[at].length != 0) at = (at + 1) & mask_;
  slots_[at] = {.head = head,
                .tail = static_cast<uint32_t>(tails_.size()),
                .id = id,
                .length = static_cast<uint32_t>(piece.size())};
  if (piece.size() > sizeof head) tails_ += piece.substr(sizeof head);
}

}  // namespace rwkv::data
