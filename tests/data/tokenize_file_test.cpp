#include "data/tokenize_file.h"

#include <string>
#include <vector>

#include "data/tokenizers/bpe_tokenizer.h"
#include "data/tokenizers/open_vocabulary.h"
#include "data/tokenizers/world_tokenizer.h"
#include "tests/data/test_files.h"
#include "tests/data/tokenizers/small_tokenizers.h"

namespace rwkv::data {
namespace {

using Ids = std::vector<int64_t>;

class TokenizeFileTest : public testing::FilesTest {
 protected:
  /// The documents of a file, each as its ids.
  std::vector<Ids> documents(const std::filesystem::path& path, const Vocabulary& vocabulary,
                             const TokenizeOptions& options) {
    std::vector<Ids> out(1);
    const TokenSink sink{.tokens =
                             [&](std::span<const int64_t> ids) {
                               out.back().insert(out.back().end(), ids.begin(), ids.end());
                             },
                         .end_document = [&] { out.emplace_back(); }};
    progress_ = 0;
    counts_ =
        tokenize_file(MappedFile(path), vocabulary, options, sink, [&](int64_t done, int64_t all) {
          EXPECT_GE(done, progress_);
          EXPECT_LE(done, all);
          progress_ = done;
        });
    EXPECT_TRUE(out.back().empty());
    out.pop_back();
    return out;
  }

  std::shared_ptr<const Vocabulary> world_ =
      world_tokenizer(testing::small_world({"ab", "abcd", " the"}), "small");
  std::shared_ptr<const Vocabulary> bpe_ =
      bpe_tokenizer(testing::small_bpe({{"h", "e"}, {"t", "he"}}).dump(), "small");
  TokenizeCounts counts_;
  int64_t progress_ = 0;
};

TEST_F(TokenizeFileTest, LinesAreDocumentsThatEndWithEndOfText) {
  const auto path =
      write("a.jsonl", "{\"text\": \"ab\"}\n\n{\"text\": \"\"}\r\n{\"text\": \"abcd\"}");
  TokenizeOptions options{.jsonl = true};
  EXPECT_EQ(documents(path, *world_, options), (std::vector<Ids>{{257, 0}, {258, 0}}));
  EXPECT_EQ(counts_.documents, 2);
  EXPECT_EQ(counts_.empty, 1);
  EXPECT_EQ(counts_.tokens, 4);
  EXPECT_EQ(progress_, std::ssize(testing::read_bytes(path)));
  options.keep_empty = true;
  EXPECT_EQ(documents(path, *world_, options), (std::vector<Ids>{{257, 0}, {0}, {258, 0}}));
  options.append_eod = false;
  EXPECT_EQ(documents(path, *world_, options), (std::vector<Ids>{{257}, {}, {258}}));
}

TEST_F(TokenizeFileTest, WorkersDoNotChangeTheResult) {
  std::string text;
  for (int i = 0; i < 1000; ++i) text += fmt::format("{{\"text\": \"the {} abcd\"}}\n", i);
  const auto path = write("a.jsonl", text);
  const auto one = documents(path, *bpe_, {.jsonl = true});
  EXPECT_EQ(documents(path, *bpe_, {.jsonl = true, .workers = 3}), one);
  ASSERT_EQ(one.size(), 1000U);
  EXPECT_EQ(bpe_->decode(one[999]), "the 999 abcd<|endoftext|>");
}

TEST_F(TokenizeFileTest, ALongTextIsOneDocumentReadInParts) {
  std::string text = "start";
  while (text.size() < 3'500'000) text += " the abcd  he\n\nthe\u00e9 x";
  const auto path = write("a.txt", text);
  for (const auto& vocabulary : {world_, bpe_}) {
    Ids whole = vocabulary->encode(text);
    whole.push_back(0);
    const auto read = documents(path, *vocabulary, {});
    ASSERT_EQ(read.size(), 1U);
    EXPECT_EQ(read[0], whole);
  }
  // Nowhere to cut.
  const auto dense = write("dense.txt", std::string(2'500'000, 'a'));
  EXPECT_EQ(documents(dense, *bpe_, {.append_eod = false})[0].size(), 2'500'000U);
}

TEST_F(TokenizeFileTest, MistakesNameFileAndPlace) {
  std::string text;
  while (text.size() < 2'000'000) text += "he the ";
  const size_t bad = text.size();
  EXPECT_REFUSED(documents(write("bad.txt", text + "\xff"), *bpe_, {}),
                 fmt::format("bad.txt: byte {}: 0xff is no well-formed UTF-8", bad));
  EXPECT_REFUSED(
      documents(write("bad.jsonl", "{\"text\": \"a\"}\n{\"text\": 1}\n"), *world_, {.jsonl = true}),
      "bad.jsonl: line 2: 'text' is no string");
  EXPECT_REFUSED(documents(write("empty.txt", ""), *world_, {}), "the text is empty");
  EXPECT_REFUSED(documents(write("empty.jsonl", "\n{\"text\": \"\"}\n"), *world_, {.jsonl = true}),
                 "no document with text");
  EXPECT_THROW(documents(write("a.txt", "a"), *byte_vocabulary(), {}), std::logic_error);
}

TEST_F(TokenizeFileTest, TokensInMemoryAreASource) {
  const auto path = write("a.txt", "abcdab");
  const auto source = open_tokens({.path = path.string(), .tokenizer = world_});
  ASSERT_EQ(source->size(), 3);
  Ids ids(3);
  source->read(0, ids);
  EXPECT_EQ(ids, (Ids{258, 257, 0}));
  EXPECT_EQ(source->vocab_size(), 260);
  EXPECT_EQ(source->fingerprint(),
            open_tokens({.path = path.string(), .tokenizer = world_})->fingerprint());
  EXPECT_REFUSED(source->token_at_byte(1), "data.train_tokens");
  EXPECT_REFUSED(open_tokens({.path = path.string(), .kind = SourceKind::kText}),
                 "need a tokenizer");
}

class OpenVocabularyTest : public testing::FilesTest {};

TEST_F(OpenVocabularyTest, KnowsFilesByTheirContent) {
  EXPECT_EQ(open_vocabulary("bytes")->size(), 256);
  const auto world = open_vocabulary(write("a", testing::small_world({"ab"})).string());
  EXPECT_EQ(world->file().name, "rwkv_vocab.txt");
  const auto bpe = open_vocabulary(write("b", "\n " + testing::small_bpe({}).dump()).string());
  EXPECT_EQ(bpe->file().name, "tokenizer.json");
  const auto characters = open_vocabulary(write("c", R"( { "0": "a", "1": "b" })").string());
  EXPECT_EQ(characters->encode("ba"), (Ids{1, 0}));
  EXPECT_FALSE(characters->may_be_padded());
  const std::string utf16(
      "\xff\xfe{\0\"\0"
      "0\0\"\0:\0\"\0x\0\"\0}\0",
      20);
  EXPECT_EQ(open_vocabulary(write("d", utf16).string())->size(), 1);
}

TEST_F(OpenVocabularyTest, WhatAModelKeepsRestoresIt) {
  for (const auto& text : {testing::small_world({"ab"}), testing::small_bpe({{"a", "b"}}).dump(),
                           std::string(R"({"0": "a", "1": "b"})")}) {
    const auto first = open_vocabulary(write("first", text).string());
    const VocabularyFile file = first->file();
    const auto again = open_vocabulary(write(file.name, file.text).string());
    EXPECT_EQ(again->size(), first->size());
    EXPECT_EQ(again->encode("abab"), first->encode("abab"));
  }
}

TEST_F(OpenVocabularyTest, PaddedOnesGiveNoBytesForTheRestOfTheRows) {
  const auto world = open_vocabulary(write("a", testing::small_world({})).string());
  const auto padded = padded_vocabulary(world, 300);
  EXPECT_EQ(padded->size(), 300);
  EXPECT_EQ(padded->decode(Ids{'a' + 1, 257, 299, 'b' + 1}), "ab");
  EXPECT_REFUSED(padded->decode(Ids{300}), "token id 300");
  EXPECT_EQ(padded->end_of_text(), 0);
  EXPECT_EQ(padded_vocabulary(world, world->size()), world);
  EXPECT_THROW(padded_vocabulary(world, 10), std::logic_error);
}

TEST_F(OpenVocabularyTest, RefusesWhatItIsNot) {
  EXPECT_REFUSED(open_vocabulary((folder_ / "none").string()), "scripts/get-tokenizers");
  EXPECT_REFUSED(open_vocabulary(write("words", "some words").string()),
                 "no vocabulary that is known here");
  EXPECT_REFUSED(open_vocabulary(write("empty", "").string()), "no vocabulary that is known here");
  EXPECT_REFUSED(open_vocabulary(write("gpt2", R"({"!": 0})").string()), "it has no model");
}

}  // namespace
}  // namespace rwkv::data
