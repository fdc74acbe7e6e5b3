#include "data/tokenizers/world_tokenizer.h"

#include <random>
#include <string>
#include <vector>

#include "data/tokenizers/byte_trie.h"
#include "tests/data/test_files.h"
#include "tests/data/tokenizers/real_files.h"
#include "tests/data/tokenizers/small_tokenizers.h"

namespace rwkv::data {
namespace {

using testing::small_world;
using testing::world_line;
using Ids = std::vector<int64_t>;

TEST(ByteTrie, FindsTheLongestLikeAPlainSearch) {
  std::mt19937 random(1);
  std::vector<std::string> words;
  for (int i = 0; i < 3000; ++i) {
    std::string word(1 + random() % 6, ' ');
    for (char& c : word) c = static_cast<char>("ab\0\xff"[random() % 4]);
    words.push_back(word);
  }
  std::ranges::sort(words);
  words.erase(std::unique(words.begin(), words.end()), words.end());
  std::vector<ByteTrie::Entry> entries;
  for (size_t i = 0; i < words.size(); ++i) entries.push_back({words[i], static_cast<uint32_t>(i)});
  const ByteTrie trie(entries);
  EXPECT_EQ(trie.longest_entry(), 6U);
  for (int i = 0; i < 2000; ++i) {
    std::string text(random() % 8, ' ');
    for (char& c : text) c = static_cast<char>("ab\0\xff"[random() % 4]);
    const auto found = trie.longest(text.data(), text.data() + text.size());
    size_t best = 0;
    for (const std::string& word : words) {
      if (text.starts_with(word)) best = std::max(best, word.size());
    }
    ASSERT_EQ(found.length, best);
    if (best > 0) {
      ASSERT_EQ(words[found.id], text.substr(0, best));
    }
  }
}

TEST(ByteTrie, MayBeEmpty) {
  const ByteTrie trie({});
  const std::string text = "abc";
  EXPECT_EQ(trie.longest(text.data(), text.data() + text.size()).length, 0U);
}

TEST(WorldTokenizer, TakesTheLongestTokenAndGivesAnyBytesBack) {
  const auto world = world_tokenizer(small_world({"ab", "abcd", "\xe4\xbd", "  "}), "small");
  EXPECT_EQ(world->size(), 261);
  EXPECT_EQ(world->end_of_text(), 0);
  EXPECT_EQ(world->encode("abcdabcab"), (Ids{258, 257, 'c' + 1, 257}));
  EXPECT_EQ(world->encode("   "), (Ids{260, ' ' + 1}));
  EXPECT_EQ(world->encode(""), Ids{});
  EXPECT_EQ(world->decode(Ids{0, 258, 0}), "abcd");
  std::string all;
  for (int byte = 0; byte < 256; ++byte) all += static_cast<char>(byte);
  EXPECT_EQ(world->decode(world->encode(all + "\xe4\xbd\xa0" + all)), all + "\xe4\xbd\xa0" + all);
  EXPECT_REFUSED(world->decode(Ids{261}),
                 "token id 261 is outside the vocabulary; ids lie in 0..260");
  EXPECT_REFUSED(world->decode(Ids{-1}), "token id -1");
}

TEST(WorldTokenizer, PartsGiveTheIdsOfTheWhole) {
  const auto world = world_tokenizer(small_world({"ab", "abcd", "cda"}), "small");
  const std::string text = "abcdabcabcdaabcabcdcdaab";
  const Ids whole = world->encode(text);
  for (size_t part = 5; part < text.size(); ++part) {
    Ids ids;
    size_t at = 0;
    while (text.size() - at > part) at += world->encode_part(text.substr(at, part), ids);
    const Ids rest = world->encode(text.substr(at));
    ids.insert(ids.end(), rest.begin(), rest.end());
    EXPECT_EQ(ids, whole) << part;
  }
  Ids none;
  EXPECT_EQ(world->encode_part("abc", none), 0U);  // abcd may follow
}

TEST(WorldVocabulary, LiteralsAreThoseOfPython) {
  std::string text = small_world({});
  text += "257 'two words ' 10\r\n";
  text += "258 \"it's\" 4\n";
  text += "259 '\\'\\\"\\\\' 3\n";
  text += "260 '\\n\\t\\r.' 4\n";
  text += "261 '\\xe9' 2\n";
  text += "262 b'\\xe9.' 2\n";
  text += "263 '\\u4f60\\U0001F600' 7\n";
  text += "264 '\xe4\xbd\xa0' 3";
  const auto tokens = parse_world_vocabulary(text, "small");
  ASSERT_EQ(tokens.size(), 265U);
  EXPECT_EQ(std::vector(tokens.begin() + 257, tokens.end()),
            (std::vector<std::string>{"two words ", "it's", "'\"\\", "\n\t\r.", "\xc3\xa9", "\xe9.",
                                      "\xe4\xbd\xa0\xf0\x9f\x98\x80", "\xe4\xbd\xa0"}));
}

TEST(WorldVocabulary, TheRealFileHas65529Tokens) {
  const auto file = testing::tokenizer_file("rwkv_vocab_v20230424.txt");
  SKIP_WITHOUT(file);
  const auto tokens = parse_world_vocabulary(testing::read_bytes(file), "world");
  ASSERT_EQ(tokens.size(), 65530U);
  EXPECT_EQ(tokens[65529], std::string(128, ' '));
  EXPECT_EQ(tokens[256], "\xff");
}

}  // namespace
}  // namespace rwkv::data
