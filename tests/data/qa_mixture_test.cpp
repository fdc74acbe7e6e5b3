#include "data/qa_mixture.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <numeric>
#include <vector>

#include "data/base/error.h"

namespace rwkv::data {
namespace {

/// Tokens in memory.
class Tokens : public TokenSource {
 public:
  Tokens(std::string name, std::vector<int64_t> tokens)
      : TokenSource(std::move(name), std::ssize(tokens)), tokens_(std::move(tokens)) {}
  [[nodiscard]] std::string fingerprint() const override { return name(); }
  [[nodiscard]] int64_t token_at_byte(int64_t byte) const override { return byte; }

 protected:
  void do_read(int64_t offset, std::span<int64_t> out) const override {
    std::copy_n(tokens_.begin() + offset, out.size(), out.begin());
  }

 private:
  std::vector<int64_t> tokens_;
};

constexpr int64_t kCtxLen = 16;

/// Questions with an answer in every second window; tokens below 1000.
std::shared_ptr<const TokenSource> questions() {
  std::vector<int64_t> tokens;
  for (int64_t window = 0; window < 200; ++window) {
    for (int64_t i = 0; i < kCtxLen; ++i) tokens.push_back(300 + i);
    if (window % 2 == 0) continue;
    std::copy_n(std::vector<int64_t>{187, 187, 34, 27, 5, 6, 0}.begin(), 7, tokens.end() - 12);
  }
  return std::make_shared<Tokens>("questions", std::move(tokens));
}

std::shared_ptr<const TokenSource> general() {
  std::vector<int64_t> tokens(5000);
  std::iota(tokens.begin(), tokens.end(), 1000);
  return std::make_shared<Tokens>("general", std::move(tokens));
}

struct Rows {
  std::vector<int64_t> inputs, targets;
  std::vector<float> mask;
};

Rows draw(const QaMixture& mixture, uint64_t first, int64_t rows) {
  const auto n = static_cast<size_t>(rows * kCtxLen);
  Rows out{std::vector<int64_t>(n), std::vector<int64_t>(n), std::vector<float>(n)};
  mixture.fill_batch(first, rows, out.inputs, out.targets, out.mask, 10000);
  return out;
}

QaMixture mixture(bool answers_only) {
  const auto text = questions();
  const Sampler cubic({}, text->size(), kCtxLen, "questions");
  return {text, cubic, general(), kCtxLen, answers_only, 9};
}

TEST(QaMixture, EvenOrdinalsAreGeneralTextAndOddOnesQuestions) {
  const QaMixture both = mixture(false);
  const Sampler cubic({}, questions()->size(), kCtxLen, "questions");
  for (uint64_t ordinal = 1; ordinal < 60; ++ordinal) {
    const Rows row = draw(both, ordinal, 1);
    EXPECT_TRUE(std::ranges::all_of(row.mask, [](float m) { return m == 1; }));
    EXPECT_EQ(row.inputs[0] >= 1000, ordinal % 2 == 0) << ordinal;
    EXPECT_EQ(row.inputs[1], row.targets[0]);
    if (ordinal % 2 == 0) continue;
    std::vector<int64_t> expected(kCtxLen);
    questions()->read(cubic.offset(ordinal / 2), expected);
    EXPECT_EQ(row.inputs, expected) << ordinal;
  }
}

TEST(QaMixture, AnswersAloneCountAndWindowsWithoutOneGiveWay) {
  const QaMixture answers = mixture(true);
  int with_answer = 0;
  int replaced = 0;
  for (uint64_t ordinal = 1; ordinal < 120; ordinal += 2) {
    const Rows row = draw(answers, ordinal, 1);
    const bool general_text = row.inputs[0] >= 1000;
    const float sum = std::accumulate(row.mask.begin(), row.mask.end(), 0.0F);
    EXPECT_EQ(sum, general_text ? static_cast<float>(kCtxLen) : 3.0F) << ordinal;
    general_text ? ++replaced : ++with_answer;
    for (size_t i = 0; !general_text && i < row.mask.size(); ++i) {
      const bool counts = row.inputs[i] == 27 || row.inputs[i] == 5 || row.inputs[i] == 6;
      EXPECT_EQ(row.mask[i] == 1, counts);
    }
  }
  EXPECT_GT(with_answer, 10);
  EXPECT_GT(replaced, 10);
}

TEST(QaMixture, IsAFunctionOfTheOrdinal) {
  const QaMixture answers = mixture(true);
  const Rows four = draw(answers, 11, 4);
  for (uint64_t i = 0; i < 4; ++i) {
    const Rows one = draw(mixture(true), 11 + i, 1);
    const auto begin = static_cast<int64_t>(i) * kCtxLen;
    EXPECT_TRUE(std::equal(one.inputs.begin(), one.inputs.end(), four.inputs.begin() + begin));
    EXPECT_TRUE(std::equal(one.mask.begin(), one.mask.end(), four.mask.begin() + begin));
  }
}

TEST(QaMixture, TokensOutsideTheVocabularyAreNamed) {
  Rows row = draw(mixture(false), 1, 1);
  EXPECT_THROW(mixture(false).fill_batch(2, 1, row.inputs, row.targets, row.mask, 500), UserError);
  EXPECT_THROW(mixture(false).fill_batch(2, 2, row.inputs, row.targets, row.mask, 0),
               std::logic_error);
}

}  // namespace
}  // namespace rwkv::data
