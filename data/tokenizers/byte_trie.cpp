#include "data/tokenizers/byte_trie.h"

#include <algorithm>
#include <stdexcept>
#include <utility>

namespace rwkv::data {
namespace {

constexpr size_t kBlock = 256;
/// The search for free nodes looks at this many blocks at the end; older ones stay as full as they
/// are.
constexpr size_t kOpenBlocks = 4;

}  // namespace

/// Entries [begin, end) in byte order that share `depth` bytes; their children hang on node
/// `parent`.
struct ByteTrie::Range {
  size_t begin;
  size_t end;
  size_t depth;
  size_t parent;
};

void ByteTrie::grow() {
  if (nodes_.size() + kBlock > (size_t{1} << (32 - kLabelBits))) {
    throw std::length_error("ByteTrie: more than 8 million nodes");
  }
  nodes_.resize(nodes_.size() + kBlock);
  base_taken_.resize(nodes_.size());
  const size_t open = kOpenBlocks * kBlock;
  if (nodes_.size() > open) first_open_ = std::max(first_open_, nodes_.size() - open);
}

uint32_t ByteTrie::place_children(const std::vector<unsigned char>& labels) {
  for (size_t at = first_open_;; ++at) {
    if (at >= nodes_.size()) grow();
    if ((nodes_[at].base_and_label & kLabelMask) != kFree) continue;
    const size_t base = at ^ labels.front();
    if (base == 0 || base_taken_[base]) continue;
    const bool fits = std::ranges::all_of(labels, [&](unsigned char label) {
      return (nodes_[base ^ label].base_and_label & kLabelMask) == kFree;
    });
    if (!fits) continue;
    base_taken_[base] = true;
    for (const unsigned char label : labels) nodes_[base ^ label].base_and_label = label;
    return static_cast<uint32_t>(base);
  }
}

ByteTrie::ByteTrie(std::vector<Entry> entries) {
  std::ranges::sort(entries, {}, &Entry::bytes);
  for (const Entry& entry : entries) longest_entry_ = std::max(longest_entry_, entry.bytes.size());
  grow();
  constexpr size_t kRoot = ~size_t{0};
  std::vector<Range> open{{0, entries.size(), 0, kRoot}};
  if (entries.empty()) open.clear();
  while (!open.empty()) {
    const Range range = open.back();
    open.pop_back();
    std::vector<unsigned char> labels;
    std::vector<Range> children;
    for (size_t i = range.begin; i < range.end; ++i) {
      const auto label = static_cast<unsigned char>(entries[i].bytes[range.depth]);
      if (labels.empty() || labels.back() != label) {
        labels.push_back(label);
        children.push_back({i, i, range.depth + 1, 0});
      }
      children.back().end = i + 1;
    }
    const uint32_t base = place_children(labels);
    (range.parent == kRoot ? root_base_ : nodes_[range.parent].base_and_label) |=
        range.parent == kRoot ? base : base << kLabelBits;
    for (size_t i = 0; i < labels.size(); ++i) {
      Range child = children[i];
      child.parent = base ^ labels[i];
      // The shortest of a range comes first in byte order.
      if (entries[child.begin].bytes.size() == child.depth) {
        nodes_[child.parent].id = entries[child.begin++].id;
      }
      if (child.begin < child.end) open.push_back(child);
    }
  }
}

}  // namespace rwkv::data
