#include "data/qa_mask.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <stdexcept>
#include <vector>

namespace rwkv::data {
namespace {

std::vector<float> mask_of(const std::vector<int64_t>& window) {
  std::vector<float> mask(window.size() - 1);
  qa_mask(window, mask);
  return mask;
}

TEST(QaMask, StartsAtTheColonAndStopsBeforeEndOfText) {
  EXPECT_EQ(mask_of({9, 187, 187, 34, 27, 5, 6, 0, 7, 8}),
            (std::vector<float>{0, 0, 0, 0, 1, 1, 1, 0, 0}));
}

TEST(QaMask, AnswerThatBeganBeforeTheWindowIsMaskedOut) {
  EXPECT_EQ(mask_of({187, 34, 27, 5, 6, 7}), (std::vector<float>{0, 0, 0, 0, 0}));
}

TEST(QaMask, SecondAnswerInOneWindowCounts) {
  EXPECT_EQ(mask_of({187, 187, 34, 27, 0, 187, 187, 34, 27, 3}),
            (std::vector<float>{0, 0, 0, 1, 0, 0, 0, 0, 1}));
}

TEST(QaMask, PatternWithoutAPredictedTokenGivesNothing) {
  std::vector<float> mask(3);
  EXPECT_FALSE(qa_mask(std::vector<int64_t>{187, 187, 34, 27}, mask));
  EXPECT_TRUE(qa_mask(std::vector<int64_t>{1, 2, 3, 4, 5}, std::span<float>(mask = {0, 0, 0, 0}),
                      {.answer = {1, 2, 3, 4}, .end_of_text = 0}));
  EXPECT_THROW(qa_mask(std::vector<int64_t>{1, 2}, mask), std::logic_error);
}

TEST(QaDraw, OddOrdinalsCountThroughTheQaCorpusWithoutGaps) {
  for (uint64_t n = 0; n < 20; ++n) {
    EXPECT_TRUE(qa_draw(2 * n).general);
    EXPECT_FALSE(qa_draw(2 * n + 1).general);
    EXPECT_EQ(qa_draw(2 * n + 1).ordinal, n);
  }
}

}  // namespace
}  // namespace rwkv::data
