#include "data/tokenizers/bpe_merges.h"

#include <algorithm>
#include <bit>
#include <functional>
#include <queue>
#include <tuple>

namespace rwkv::data {
namespace {

/// Up to here looking through all neighbours for the lowest rank beats a heap.
constexpr size_t kShort = 64;

uint64_t pair_key(uint32_t left, uint32_t right) {
  return static_cast<uint64_t>(left) << 32 | right;
}

size_t hash(uint64_t key) {
  key *= 0x9E3779B97F4A7C15U;
  return key ^ (key >> 32);
}

}  // namespace

BpeMerges::BpeMerges(const std::array<uint32_t, 256>& byte_ids, std::span<const BpeMerge> merges)
    : byte_ids_(byte_ids), slots_(std::bit_ceil(2 * merges.size() + 1)), mask_(slots_.size() - 1) {
  for (size_t rank = 0; rank < merges.size(); ++rank) {
    const uint64_t pair = pair_key(merges[rank].left, merges[rank].right);
    size_t at = hash(pair) & mask_;
    while (slots_[at].rank != kNoRank) at = (at + 1) & mask_;
    slots_[at] = {pair, static_cast<uint32_t>(rank), merges[rank].merged};
  }
}

const BpeMerges::Slot& BpeMerges::find(uint32_t left, uint32_t right) const {
  const uint64_t pair = pair_key(left, right);
  size_t at = hash(pair) & mask_;
  while (slots_[at].rank != kNoRank && slots_[at].pair != pair) at = (at + 1) & mask_;
  return slots_[at];
}

void BpeMerges::encode(std::string_view piece, std::vector<int64_t>& out) const {
  if (piece.size() <= kShort) {
    encode_short(piece, out);
  } else {
    encode_long(piece, out);
  }
}

void BpeMerges::encode_short(std::string_view piece, std::vector<int64_t>& out) const {
  std::array<uint32_t, kShort> ids;       // of the parts
  std::array<const Slot*, kShort> joins;  // joins[i]: parts i and i + 1
  size_t count = piece.size();
  for (size_t i = 0; i < count; ++i) ids[i] = byte_ids_[static_cast<unsigned char>(piece[i])];
  for (size_t i = 0; i + 1 < count; ++i) joins[i] = &find(ids[i], ids[i + 1]);
  while (count > 1) {
    size_t best = 0;
    for (size_t i = 1; i + 1 < count; ++i) {
      if (joins[i]->rank < joins[best]->rank) best = i;
    }
    if (joins[best]->rank == kNoRank) break;
    ids[best] = joins[best]->merged;
    std::copy(ids.begin() + best + 2, ids.begin() + count, ids.begin() + best + 1);
    std::copy(joins.begin() + best + 1, joins.begin() + count - 1, joins.begin() + best);
    --count;
    if (best > 0) joins[best - 1] = &find(ids[best - 1], ids[best]);
    if (best + 1 < count) joins[best] = &find(ids[best], ids[best + 1]);
  }
  out.insert(out.end(), ids.begin(), ids.begin() + count);
}

void BpeMerges::encode_long(std::string_view piece, std::vector<int64_t>& out) const {
  constexpr uint32_t kEnd = ~0U;
  struct Part {
    uint32_t id;
    uint32_t before;
    uint32_t after;
  };
  // A join whose parts have changed since is stale: its ids no longer match.
  struct Join {
    uint32_t rank;
    uint32_t at;
    uint32_t left;
    uint32_t right;
    uint32_t merged;
    bool operator>(const Join& other) const {
      return std::tie(rank, at) > std::tie(other.rank, other.at);
    }
  };
  const auto count = static_cast<uint32_t>(piece.size());
  std::vector<Part> parts(count);
  std::priority_queue<Join, std::vector<Join>, std::greater<>> joins;
  const auto consider = [&](uint32_t at) {
    const uint32_t left = parts[at].id;
    const uint32_t right = parts[parts[at].after].id;
    const Slot& slot = find(left, right);
    if (slot.rank != kNoRank) joins.push({slot.rank, at, left, right, slot.merged});
  };
  for (uint32_t i = 0; i < count; ++i) {
    parts[i] = {byte_ids_[static_cast<unsigned char>(piece[i])], i == 0 ? kEnd : i - 1,
                i + 1 == count ? kEnd : i + 1};
  }
  for (uint32_t i = 0; i + 1 < count; ++i) consider(i);
  while (!joins.empty()) {
    const Join join = joins.top();
    joins.pop();
    Part& left = parts[join.at];
    if (left.id != join.left || left.after == kEnd || parts[left.after].id != join.right) continue;
    Part& right = parts[left.after];
    left.id = join.merged;
    left.after = right.after;
    right.id = kEnd;  // no token has this id, so joins with it are stale
    if (left.after != kEnd) {
      parts[left.after].before = join.at;
      consider(join.at);
    }
    if (left.before != kEnd) consider(left.before);
  }
  for (uint32_t at = 0; at != kEnd; at = parts[at].after) {
    out.push_back(parts[at].id);
  }
}

}  // namespace rwkv::data
