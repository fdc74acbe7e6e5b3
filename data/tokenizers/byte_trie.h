#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

namespace rwkv::data {

/// Finds the longest of a set of byte strings that a text begins with. A double-array trie (Aoe
/// 1989) with XOR addressing: one node is 8 bytes and a step one lookup, so that the 65529 World
/// tokens take about 2 MB.
class ByteTrie {
 public:
  struct Entry {
    std::string_view bytes;
    uint32_t id;
  };
  /// entries: distinct and not empty. Throws std::length_error for more than 8 million nodes.
  explicit ByteTrie(std::vector<Entry> entries);

  struct Match {
    uint32_t id = 0;
    size_t length = 0;  // 0: nothing matches
  };
  [[nodiscard]] Match longest(const char* begin, const char* end) const {
    Match match;
    uint32_t base = root_base_;
    for (const char* at = begin; at != end; ++at) {
      const auto label = static_cast<unsigned char>(*at);
      const Node& node = nodes_[base ^ label];
      if ((node.base_and_label & kLabelMask) != label) break;
      if (node.id != kNoId) match = {node.id, static_cast<size_t>(at - begin) + 1};
      base = node.base_and_label >> kLabelBits;
      if (base == 0) break;
    }
    return match;
  }
  /// Length of the longest entry.
  [[nodiscard]] size_t longest_entry() const { return longest_entry_; }

 private:
  static constexpr unsigned kLabelBits = 9;
  static constexpr uint32_t kLabelMask = (1U << kLabelBits) - 1;
  static constexpr uint32_t kFree = 256;  // a label that no byte has
  static constexpr uint32_t kNoId = ~0U;

  /// Child `c` of a node lies at base ^ c and carries the label c. Each base belongs to one node
  /// only, so the label alone tells whose child it is. Base 0: no children.
  struct Node {
    uint32_t base_and_label = kFree;
    uint32_t id = kNoId;
  };

  struct Range;
  uint32_t place_children(const std::vector<unsigned char>& labels);
  void grow();

  std::vector<Node> nodes_;
  std::vector<bool> base_taken_;
  size_t first_open_ = 1;  // where the search for free nodes begins
  uint32_t root_base_ = 0;
  size_t longest_entry_ = 0;
};

}  // namespace rwkv::data
