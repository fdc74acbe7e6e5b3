#include "data/tokenizers/bpe_tokenizer.h"

#include <random>
#include <string>
#include <vector>

#include "data/base/utf8.h"
#include "data/tokenizers/bpe_merges.h"
#include "data/tokenizers/unicode.h"
#include "tests/data/test_files.h"
#include "tests/data/tokenizers/small_tokenizers.h"

namespace rwkv::data {
namespace {

using testing::small_bpe;
using Ids = std::vector<int64_t>;

constexpr int64_t byte_id(char c) { return static_cast<unsigned char>(c) + 1; }

std::shared_ptr<const Vocabulary> small(const BpeOptions& options = {}) {
  // 257 he, 258 ll, 259 hell, 260 " w", 261 ab, 262 bc
  return bpe_tokenizer(
      small_bpe({{"h", "e"}, {"l", "l"}, {"he", "ll"}, {" ", "w"}, {"a", "b"}, {"b", "c"}}).dump(),
      "small", options);
}

TEST(BpeTokenizer, MergesByRankAndSplitsAddedTokens) {
  const auto bpe = small();
  EXPECT_EQ(bpe->size(), 265);
  EXPECT_EQ(bpe->end_of_text(), 0);
  EXPECT_EQ(bpe->encode("hello"), (Ids{259, byte_id('o')}));
  EXPECT_EQ(bpe->encode("abc"), (Ids{261, byte_id('c')}));
  EXPECT_EQ(bpe->encode("a w"), (Ids{byte_id('a'), 260}));
  EXPECT_EQ(bpe->encode("a<|endoftext|>b"), (Ids{byte_id('a'), 0, byte_id('b')}));
  // Runs of spaces go greedily to the longest added token; the word behind has no space.
  EXPECT_EQ(bpe->encode("a  w"), (Ids{byte_id('a'), 264, byte_id('w')}));
  EXPECT_EQ(bpe->encode("    w"), (Ids{263, 260}));
  EXPECT_EQ(bpe->encode("     "), (Ids{263, 264}));
  EXPECT_EQ(bpe->decode(bpe->encode("hello  world<|endoftext|>\n")), "hello  world<|endoftext|>\n");
  EXPECT_REFUSED(bpe->decode(Ids{265}), "token id 265 is outside the vocabulary");
  EXPECT_REFUSED(bpe->decode(Ids{-1}), "token id -1");
}

TEST(BpeTokenizer, TextIsBroughtToNormalFormC) {
  const auto bpe = small();
  EXPECT_EQ(bpe->decode(bpe->encode("e\u0301 caf\u00e9")), "\u00e9 caf\u00e9");
  // Not across an added token that is looked for first.
  EXPECT_EQ(bpe->decode(bpe->encode("e<|endoftext|>\u0301")), "e<|endoftext|>\u0301");
}

TEST(BpeTokenizer, SpecialTokensMayBePlainText) {
  const auto bpe = small({.special_as_text = true});
  const Ids ids = bpe->encode("<|endoftext|>");
  EXPECT_EQ(ids.size(), 13U);
  EXPECT_EQ(bpe->decode(ids), "<|endoftext|>");
}

TEST(BpeTokenizer, IllFormedTextIsRefusedOrReplaced) {
  EXPECT_REFUSED(small()->encode("ab\xe4\xbd"), "text: byte 2: 0xe4 is no well-formed UTF-8");
  const auto bpe = small({.replace_ill_formed = true});
  EXPECT_EQ(bpe->decode(bpe->encode("ab\xe4\xbd\xff.")), "ab\uFFFD\uFFFD.");
  const std::string zero("a\0b", 3);
  EXPECT_EQ(small()->decode(small()->encode(zero)), zero);
}

TEST(BpeTokenizer, PartsGiveTheIdsOfTheWhole) {
  const auto bpe = small();
  const std::string text = "hello  world, abc   bc\n\nhe  ll  <|endoftext|> e\u0301  w\n";
  const Ids whole = bpe->encode(text);
  for (size_t part = 16; part < text.size(); ++part) {
    Ids ids;
    size_t at = 0;
    while (text.size() - at > part) {
      const size_t used = bpe->encode_part(text.substr(at, part), ids);
      ASSERT_GT(used, 0U) << part << " at " << at;
      at += used;
    }
    const Ids rest = bpe->encode(text.substr(at));
    ids.insert(ids.end(), rest.begin(), rest.end());
    EXPECT_EQ(ids, whole) << part;
  }
}

TEST(BpeMerges, ShortAndLongPiecesFollowTheSameRule) {
  std::array<uint32_t, 256> bytes{};
  for (uint32_t byte = 0; byte < 256; ++byte) bytes[byte] = byte;
  std::mt19937 random(3);
  std::vector<BpeMerge> merges;
  std::vector<uint32_t> known{'a', 'b', 'c'};
  while (merges.size() < 60) {
    const BpeMerge merge{known[random() % known.size()], known[random() % known.size()],
                         static_cast<uint32_t>(256 + merges.size())};
    const bool twice = std::ranges::any_of(
        merges, [&](const BpeMerge& m) { return m.left == merge.left && m.right == merge.right; });
    if (twice) continue;
    merges.push_back(merge);
    known.push_back(merge.merged);
  }
  const BpeMerges bpe(bytes, merges);
  for (int i = 0; i < 300; ++i) {
    std::string piece(random() % 200 + 1, ' ');
    for (char& c : piece) c = static_cast<char>('a' + random() % 3);
    Ids plain(piece.begin(), piece.end());
    for (;;) {
      size_t best = merges.size();
      size_t where = 0;
      for (size_t at = 0; at + 1 < plain.size(); ++at) {
        for (size_t rank = 0; rank < best; ++rank) {
          if (merges[rank].left == plain[at] && merges[rank].right == plain[at + 1]) {
            best = rank;
            where = at;
          }
        }
      }
      if (best == merges.size()) break;
      plain[where] = merges[best].merged;
      plain.erase(plain.begin() + static_cast<std::ptrdiff_t>(where) + 1);
    }
    Ids ids;
    bpe.encode(piece, ids);
    ASSERT_EQ(ids, plain) << piece;
  }
}

TEST(BpeTokenizer, TenMegabytesWithoutASpaceTakeSeconds) {
  const auto bpe = small();
  std::string text(10'000'000, 'a');
  for (size_t i = 1; i < text.size(); i += 2) text[i] = 'b';
  EXPECT_EQ(bpe->encode(text), Ids(text.size() / 2, 261));
}

}  // namespace
}  // namespace rwkv::data
