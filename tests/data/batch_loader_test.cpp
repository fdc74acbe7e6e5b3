#include "data/batch_loader.h"

#include <chrono>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <vector>

#include "tests/data/test_files.h"

namespace rwkv::data {
namespace {

using Ids = std::vector<int64_t>;

class BatchLoaderTest : public testing::FilesTest {
 protected:
  /// A source whose token i is i mod 251.
  [[nodiscard]] std::unique_ptr<TokenSource> counting_source(size_t size) const {
    std::string bytes(size, '\0');
    for (size_t i = 0; i < size; ++i) bytes[i] = static_cast<char>(i % 251);
    return open_tokens({.path = write("text", bytes).string()});
  }
};

TEST_F(BatchLoaderTest, TargetsAreInputsOneTokenLater) {
  const auto source = counting_source(1000);
  const Sampler sampler({.shift = 3}, source->size(), 8, source->name());
  Ids inputs(32);
  Ids targets(32);
  fill_batch(*source, sampler, 5, 4, 8, inputs, targets);
  for (int64_t b = 0; b < 4; ++b) {
    const int64_t offset = sampler.offset(static_cast<uint64_t>(5 + b));
    for (int64_t t = 0; t < 8; ++t) {
      EXPECT_EQ(inputs[static_cast<size_t>(8 * b + t)], (offset + t) % 251);
      EXPECT_EQ(targets[static_cast<size_t>(8 * b + t)], (offset + t + 1) % 251);
    }
  }
}

TEST_F(BatchLoaderTest, EveryWindowOfAPassIsInside) {
  const auto source = counting_source(500);
  for (const int64_t shift : {0, 6}) {
    const Sampler sampler({.shift = shift}, source->size(), 7, source->name());
    Ids inputs(7);
    Ids targets(7);
    for (int64_t n = 1; n <= sampler.magic_prime(); ++n) {
      EXPECT_NO_THROW(
          fill_batch(*source, sampler, static_cast<uint64_t>(n), 1, 7, inputs, targets));
    }
  }
}

TEST_F(BatchLoaderTest, TokenOutsideTheVocabularyIsNamedWithItsPlace) {
  const auto source = counting_source(100);
  Ids inputs(4);
  Ids targets(4);
  const Ids offsets{10};
  EXPECT_NO_THROW(fill_windows(*source, offsets, 4, inputs, targets, 15));
  EXPECT_REFUSED(fill_windows(*source, offsets, 4, inputs, targets, 14),
                 "token 14 is 14, outside the model's vocabulary of 14");
}

TEST_F(BatchLoaderTest, WrongSizesAreABug) {
  const auto source = counting_source(100);
  Ids small(7);
  Ids right(8);
  const Ids offsets{0, 8};
  EXPECT_THROW(fill_windows(*source, offsets, 4, small, right), std::logic_error);
  EXPECT_THROW(fill_windows(*source, offsets, 4, right, small), std::logic_error);
  const Ids outside{96, 0};
  EXPECT_THROW(fill_windows(*source, outside, 4, right, right), std::out_of_range);
}

TEST_F(BatchLoaderTest, FillingABatchTakesLessThanAMillisecond) {
  const auto source = counting_source(1'000'000);
  const Sampler sampler({}, source->size(), 256, source->name());
  Ids inputs(8 * 256);
  Ids targets(8 * 256);
  const auto start = std::chrono::steady_clock::now();
  for (uint64_t step = 0; step < 100; ++step) {
    fill_batch(*source, sampler, 1 + 8 * step, 8, 256, inputs, targets, 256);
  }
  const std::chrono::duration<double, std::milli> ms = std::chrono::steady_clock::now() - start;
  RecordProperty("microseconds_per_batch", static_cast<int>(ms.count() * 10));
  EXPECT_LT(ms.count() / 100, 1.0);
}

TEST(ValidationOffsets, AreEvenlySpacedAndInside) {
  const auto offsets = validation_offsets(1'000'000, 128, "valid");
  ASSERT_EQ(offsets.size(), 1024U);
  EXPECT_EQ(offsets.front(), 0);
  for (size_t k = 0; k < offsets.size(); ++k) {
    EXPECT_EQ(offsets[k], static_cast<int64_t>(k) * (1'000'000 - 129) / 1024);
  }
  EXPECT_LE(offsets.back() + 129, 1'000'000);
  EXPECT_EQ(validation_offsets(129, 128, "valid", 3), (Ids{0, 0, 0}));
  constexpr int64_t kLargest = std::numeric_limits<int64_t>::max();
  EXPECT_GT(validation_offsets(kLargest, 1, "valid").back(), kLargest / 1024 * 1022);
  EXPECT_REFUSED(validation_offsets(128, 128, "valid"),
                 "valid: 128 tokens hold no validation window");
}

}  // namespace
}  // namespace rwkv::data
