#include "data/sampler.h"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <set>
#include <stdexcept>
#include <vector>

#include "data/counter_rng.h"
#include "tests/data/test_files.h"

namespace rwkv::data {
namespace {

using testing::refusal;

constexpr int64_t kTokens = 48021;  // 3001 chunks of 16, so p = 2999
constexpr int64_t kCtxLen = 16;
constexpr int64_t kLargest = std::numeric_limits<int64_t>::max();

TEST(Philox, EqualsRandom123) {
  using Words = std::array<uint32_t, 4>;
  EXPECT_EQ(philox4x32({0, 0, 0, 0}, {0, 0}),
            (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox4x32({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff}),
            (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(IsPrime, AgreesWithASieveAndOnHardNumbers) {
  std::vector<bool> composite(10000, false);
  for (size_t n = 2; n < composite.size(); ++n) {
    EXPECT_EQ(is_prime(n), !composite[n]) << n;
    for (size_t m = n * n; m < composite.size(); m += n) composite[m] = true;
  }
  EXPECT_FALSE(is_prime(0));
  EXPECT_FALSE(is_prime(1));
  // Strong pseudoprimes to many bases, Carmichael numbers, and the ends of the range.
  for (const uint64_t n : {3215031751U, 561U, 1105U, 825265U}) EXPECT_FALSE(is_prime(n)) << n;
  EXPECT_FALSE(is_prime(3825123056546413051U));
  EXPECT_FALSE(is_prime(18446744073709551615U));
  EXPECT_TRUE(is_prime(18446744073709551557U));
  EXPECT_TRUE(is_prime(9223372036854775783U));
}

TEST(LargestMagicPrime, EqualsThePublishedOnes) {
  constexpr int64_t kPile = 332115325534;
  EXPECT_EQ(largest_magic_prime(kPile, 1024), 324331313);
  EXPECT_EQ(largest_magic_prime(kPile, 2048), 162165671);
  EXPECT_EQ(largest_magic_prime(kPile, 4096), 81082817);
  EXPECT_EQ(largest_magic_prime(kPile, 8192), 40541399);
  EXPECT_EQ(largest_magic_prime(1498226207, 512), 2926181);
  EXPECT_EQ(largest_magic_prime(1498226207, 4096), 365759);
  EXPECT_EQ(largest_magic_prime(30, 10), 2);
  EXPECT_EQ(largest_magic_prime(29, 10), 0);
  EXPECT_EQ(largest_magic_prime(0, 10), 0);
  const int64_t huge = largest_magic_prime(kLargest, 1);
  EXPECT_TRUE(is_prime(static_cast<uint64_t>(huge)));
  EXPECT_EQ(huge % 3, 2);
}

TEST(CheckMagicPrime, EachFaultHasItsReasonAndAProposal) {
  const auto check = [](int64_t prime, int64_t tokens = kTokens, int64_t shift = 0) {
    return refusal([&] { check_magic_prime(prime, tokens, kCtxLen, shift, "magic_prime"); });
  };
  EXPECT_EQ(check(2999), "");
  EXPECT_EQ(check(2963), "") << "covers more than nine tenths";
  for (const int64_t prime : {0, -5, 1, 2998}) {
    EXPECT_NE(check(prime).find("is not prime; use 2999"), std::string::npos) << check(prime);
  }
  EXPECT_NE(check(2971).find("2 modulo 3"), std::string::npos) << check(2971);
  EXPECT_NE(check(3011).find("is too large"), std::string::npos) << check(3011);
  EXPECT_NE(check(2999, 2999 * 16).find("is too large"), std::string::npos);
  EXPECT_EQ(check(2999, 2999 * 16 + 1), "");
  EXPECT_NE(check(2999, 2999 * 16 + 5, 5).find("is too large"), std::string::npos);
  EXPECT_NE(check(1499).find("is too small"), std::string::npos) << check(1499);
  EXPECT_NE(check(9223372036854775783).find("is"), std::string::npos);
  // Few chunks: the largest possible prime is accepted even below nine tenths.
  EXPECT_EQ(check(5, 10 * kCtxLen), "");
  EXPECT_NE(check(7, 2 * kCtxLen).find("too short for any"), std::string::npos) << check(7, 32);
}

TEST(Sampler, EveryChunkOnceInEveryVariant) {
  for (const SamplerFactor factor : {SamplerFactor::kGolden, SamplerFactor::kOne}) {
    for (const int64_t bias : {int64_t{0}, int64_t{12345}, kLargest}) {
      const Sampler sampler({.factor = factor, .step_bias = bias}, kTokens, kCtxLen, "data");
      ASSERT_EQ(sampler.magic_prime(), 2999);
      std::set<int64_t> chunks;
      for (uint64_t n = 1; n <= 2999; ++n) {
        const int64_t offset = sampler.offset(n);
        ASSERT_EQ(offset % kCtxLen, 0);
        chunks.insert(offset / kCtxLen);
        EXPECT_EQ(offset, sampler.offset(n + 2999)) << "the second pass repeats the first";
      }
      EXPECT_EQ(chunks.size(), 2999U);
      EXPECT_EQ(*chunks.begin(), 0);
      EXPECT_EQ(*chunks.rbegin(), 2998);
    }
  }
}

TEST(Sampler, FactorsOfThePile) {
  const std::vector<std::pair<int64_t, int64_t>> wanted{
      {1024, 200447775}, {2048, 100223896}, {4096, 50111936}, {8192, 25055962}};
  for (const auto& [ctx_len, factor] : wanted) {
    EXPECT_EQ(Sampler({}, 332115325534, ctx_len, "pile").factor(), factor);
  }
}

TEST(Sampler, PlainCubesAreTheFormula) {
  const Sampler sampler(
      {.factor = SamplerFactor::kOne, .step_bias = 2, .shift = 3, .random_steps = 4}, kTokens,
      kCtxLen, "data");
  // n = 10 - 4 + 2
  EXPECT_EQ(sampler.offset(10), 8 * 8 * 8 * kCtxLen + 3);
  EXPECT_EQ(sampler.offset(4), 2 * 2 * 2 * kCtxLen + 3);
}

TEST(Sampler, SameSetOfEachStepForEveryWorldSize) {
  constexpr int64_t kBatch = 16;
  const Sampler sampler({}, kTokens, kCtxLen, "data");
  for (const int64_t epoch : {0, 7}) {
    for (int64_t step = 0; step < 20; ++step) {
      std::multiset<int64_t> reference;
      for (int64_t j = 0; j < kBatch; ++j) {
        const auto n = static_cast<uint64_t>(1 + epoch * kSamplesPerEpoch + step * kBatch + j);
        reference.insert(sampler.offset(n));
      }
      for (const int64_t world : {1, 2, 4, 8}) {
        std::multiset<int64_t> drawn;
        const int64_t micro_bsz = kBatch / world;
        for (int64_t rank = 0; rank < world; ++rank) {
          for (int64_t j = 0; j < micro_bsz; ++j) {
            drawn.insert(sampler.offset(sample_ordinal(epoch, step * micro_bsz + j, world, rank)));
          }
        }
        EXPECT_EQ(drawn, reference) << "world " << world << ", step " << step;
      }
    }
  }
}

TEST(Sampler, RestartAtAMiniEpochContinuesTheLongerRun) {
  const Sampler sampler({.kind = SamplerKind::kRandom, .seed = 5}, kTokens, kCtxLen, "data");
  const Sampler again({.kind = SamplerKind::kRandom, .seed = 5}, kTokens, kCtxLen, "data");
  uint64_t n = 3 * kSamplesPerEpoch;
  for (int64_t i = 0; i < 100; ++i) {
    EXPECT_EQ(sampler.offset(++n), again.offset(sample_ordinal(3, i, 1, 0)));
  }
}

TEST(Sampler, HugePrimesDoNotOverflow) {
  // ctx_len 1 makes the offset the chunk itself; the last chunk is p - 1 and must stay inside.
  const Sampler sampler({}, kLargest, 1, "data");
  const auto prime = static_cast<uint64_t>(sampler.magic_prime());
  EXPECT_GT(prime, uint64_t{1} << 62);
  std::set<int64_t> offsets;
  for (const uint64_t n : {uint64_t{1}, prime - 1, prime + 1, ~uint64_t{0}, uint64_t{1} << 63}) {
    const int64_t offset = sampler.offset(n);
    EXPECT_GE(offset, 0);
    EXPECT_LT(offset, sampler.magic_prime());
    offsets.insert(offset);
  }
  // (p - 1)^3 = -1: the two offsets mirror each other; p + 1 repeats 1.
  EXPECT_EQ(sampler.offset(1) + sampler.offset(prime - 1), sampler.magic_prime());
  EXPECT_EQ(offsets.size(), 4U);
}

TEST(RandomSampler, IsAFunctionOfSeedAndOrdinalAndUniform) {
  constexpr int64_t kBound = kTokens - (kCtxLen + 1);
  const Sampler sampler({.kind = SamplerKind::kRandom, .seed = 1}, kTokens, kCtxLen, "data");
  const Sampler other({.kind = SamplerKind::kRandom, .seed = 2}, kTokens, kCtxLen, "data");
  EXPECT_EQ(sampler.magic_prime(), 0);
  std::vector<int64_t> quarter(4);
  int equal = 0;
  for (uint64_t n = 1; n <= 20000; ++n) {
    const int64_t offset = sampler.offset(n);
    ASSERT_GE(offset, 0);
    ASSERT_LT(offset, kBound);
    ++quarter[static_cast<size_t>(4 * offset / kBound)];
    equal += offset == other.offset(n) ? 1 : 0;
  }
  EXPECT_LT(equal, 10);
  // 5000 expected in each, standard deviation 61.
  for (const int64_t count : quarter) EXPECT_NEAR(static_cast<double>(count), 5000, 300);
}

TEST(RandomSampler, TheLastPossibleStartIsNeverDrawn) {
  const Sampler sampler({.kind = SamplerKind::kRandom}, 20, 16, "data");
  std::set<int64_t> offsets;
  for (uint64_t n = 1; n <= 1000; ++n) offsets.insert(sampler.offset(n));
  EXPECT_EQ(offsets, (std::set<int64_t>{0, 1, 2}));
}

TEST(Sampler, RandomStepsComeBeforeThePermutation) {
  const Sampler plain({}, kTokens, kCtxLen, "data");
  const Sampler late({.random_steps = 1000}, kTokens, kCtxLen, "data");
  EXPECT_EQ(late.offset(1000), plain.offset(0));
  EXPECT_EQ(late.offset(1500), plain.offset(500));
  int unaligned = 0;
  for (uint64_t n = 1; n < 1000; ++n) unaligned += late.offset(n) % kCtxLen != 0 ? 1 : 0;
  EXPECT_GT(unaligned, 800);
}

TEST(Sampler, ConfigurationsThatDoNotSuitTheDataAreRefused) {
  const auto make = [](const SamplerConfig& config, int64_t tokens, int64_t ctx_len) {
    return refusal([&] { Sampler(config, tokens, ctx_len, "train.bin"); });
  };
  EXPECT_EQ(make({}, 30, 10), "");
  EXPECT_NE(make({}, 29, 10).find("hold 2 chunks of ctx_len 10"), std::string::npos);
  EXPECT_NE(make({}, 11, 10).find("train.bin: 11 tokens are too few"), std::string::npos);
  EXPECT_NE(make({}, 0, 10).find("too few"), std::string::npos);
  EXPECT_NE(make({}, -1, kLargest).find("too few"), std::string::npos);
  EXPECT_NE(make({}, kLargest, 0).find("ctx_len is 0"), std::string::npos);
  EXPECT_NE(make({.shift = 10}, 1000, 10).find("shift is 10"), std::string::npos);
  EXPECT_NE(make({.shift = -1}, 1000, 10).find("shift is -1"), std::string::npos);
  EXPECT_NE(make({.step_bias = -1}, 1000, 10).find("step_bias is -1"), std::string::npos);
  EXPECT_NE(make({.random_steps = -1}, 1000, 10).find("random_steps is -1"), std::string::npos);
  EXPECT_NE(make({.magic_prime = 97}, 1000, 10).find("use 89"), std::string::npos);
  EXPECT_EQ(make({.kind = SamplerKind::kRandom}, 12, 10), "");
}

TEST(CheckTailAllowed, ReleasedPrimeNeedsAValidationFile) {
  EXPECT_REFUSED(check_tail_allowed(324331313, 1, "sampler.magic_prime"),
                 "separate validation file");
  EXPECT_NO_THROW(check_tail_allowed(324331313, 0, "sampler.magic_prime"));
  EXPECT_NO_THROW(check_tail_allowed(2999, 1000, "sampler.magic_prime"));
  EXPECT_NO_THROW(check_tail_allowed(0, 1000, "sampler.magic_prime"));
}

TEST(SampleOrdinal, CountsFromOneAndRefusesNonsense) {
  EXPECT_EQ(sample_ordinal(0, 0, 1, 0), 1U);
  EXPECT_EQ(sample_ordinal(2, 5, 4, 3), 1U + 2 * 40320 + 5 * 4 + 3);
  EXPECT_THROW(sample_ordinal(0, 0, 4, 4), std::logic_error);
  EXPECT_THROW(sample_ordinal(-1, 0, 1, 0), std::logic_error);
  EXPECT_THROW(sample_ordinal(kLargest, 0, 1, 0), std::logic_error);
}

}  // namespace
}  // namespace rwkv::data
