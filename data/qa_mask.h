#pragma once

#include <array>
#include <cstdint>
#include <span>

namespace rwkv::data {

/// Where an answer starts and ends; the defaults are "\n\nA:" and end of text in the 20B
/// vocabulary.
struct QaPattern {
  std::array<int64_t, 4> answer{187, 187, 34, 27};
  int64_t end_of_text = 0;
};

/// Marks the positions of a window that predict a token of an answer: mask[i] is 1 from the colon
/// that ends the pattern up to, not including, the end of text (RWKV-LM RWKV-v4neo/src/dataset.py,
/// my_qa_mask 1). `window`: ctx_len + 1 tokens; `mask`: ctx_len values of 0 or 1, as weights of the
/// loss. An answer that began before the window is masked out. Returns false when all of them are
/// 0: such a window has nothing to learn and is replaced by one of the general corpus.
bool qa_mask(std::span<const int64_t> window, std::span<float> mask, const QaPattern& pattern = {});

/// Which corpus serves a sample of the QA mixture, and as which ordinal of that corpus' sampler:
/// even ordinals draw a random window of the general corpus, odd ones sample ordinal / 2 of the QA
/// corpus.
struct QaDraw {
  bool general = false;
  uint64_t ordinal = 0;
};
constexpr QaDraw qa_draw(uint64_t ordinal) {
  if (ordinal % 2 == 0) return {.general = true, .ordinal = ordinal};
  return {.general = false, .ordinal = ordinal / 2};
}

}  // namespace rwkv::data
