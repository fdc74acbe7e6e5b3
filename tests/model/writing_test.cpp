#include <gtest/gtest.h>
#include <torch/torch.h>

#include <fstream>
#include <string>
#include <vector>

#include "data/base/error.h"
#include "model/chat.h"
#include "model/state_file.h"
#include "model/text_stream.h"
#include "model/weights.h"
#include "model/write_text.h"
#include "tests/model/writing_support.h"

namespace rwkv::model {
namespace {

/// All that a stream shows of a text given byte by byte.
std::vector<std::string> pieces_of(std::string_view text, std::vector<std::string> stops) {
  const auto bytes = data::byte_vocabulary();
  TextStream stream(*bytes, std::move(stops));
  std::vector<std::string> pieces;
  for (const int64_t id : bytes->encode(text)) {
    if (std::string ready = stream.add(id); !ready.empty()) pieces.push_back(ready);
  }
  if (std::string rest = stream.finish(); !rest.empty()) pieces.push_back(rest);
  return pieces;
}

TEST(TextStream, NeverCutsACharacter) {
  EXPECT_EQ(pieces_of("aé€😀", {}), (std::vector<std::string>{"a", "é", "€", "😀"}));
  EXPECT_EQ(pieces_of("a\xF0\x9F\x98", {}), std::vector<std::string>{"a"});  // never completed
}

TEST(TextStream, ShowsBytesThatCanBecomeNoCharacterInsteadOfWaitingForEver) {
  EXPECT_EQ(pieces_of("\xFF\x80z", {}), std::vector<std::string>{"\xFF\x80z"});
}

TEST(TextStream, HoldsBackWhatMayBecomeAStopString) {
  EXPECT_EQ(pieces_of("ab\n\ncd", {"\n\n"}), (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(pieces_of("a\nb\n", {"\n\n"}), (std::vector<std::string>{"a", "\nb", "\n"}));
  EXPECT_EQ(pieces_of("xaab", {"aaa", "ab"}), (std::vector<std::string>{"x", "a"}));
  EXPECT_EQ(pieces_of("ab", {""}), (std::vector<std::string>{"a", "b"}));
}

TEST(TextStream, FindsAStopStringInsideOneToken) {
  const ListVocabulary words({"", "Hello", " you.\n\nUser:"});
  TextStream stream(words, {"\n\n"});
  EXPECT_EQ(stream.add(1), "Hello");
  EXPECT_EQ(stream.add(2), " you.");
  EXPECT_TRUE(stream.stopped());
  EXPECT_EQ(stream.finish(), "");
}

TEST(TextStream, CompletesTheCharacterThatTheTextBeforeBegan) {
  const auto bytes = data::byte_vocabulary();
  TextStream stream(*bytes, {}, bytes->encode("x\xE2\x82"));
  EXPECT_EQ(stream.add(0xAC), "€");
}

struct Scripted {
  Written written;
  Context context;
};

Scripted write_script(std::vector<int64_t> script, const WriteOptions& options) {
  const ListVocabulary words({"", "a", "b", "\n"});
  ScriptedModel model(5, std::move(script));  // one row more than the vocabulary has tokens
  Scripted result;
  feed(model, std::vector<int64_t>{1}, result.context);
  result.written = write_text(model, words, options, result.context);
  return result;
}

TEST(WriteText, EndsAtTheEndOfTextWithoutKeepingIt) {
  const Scripted result = write_script({1, 2, 0, 1}, {});
  EXPECT_EQ(result.written.text, "ab");
  EXPECT_EQ(result.written.reason, StopReason::kEndOfText);
  EXPECT_EQ(result.context.tokens, (std::vector<int64_t>{1, 1, 2}));
}

TEST(WriteText, CanIgnoreTheEndOfText) {
  WriteOptions options{.ignore_end_of_text = true};
  options.generate.tokens = 4;
  options.generate.sampling.temperature = 0;
  const Scripted result = write_script({1, 2, 0, 1}, options);
  EXPECT_EQ(result.written.tokens, 4);
  EXPECT_EQ(result.written.reason, StopReason::kTokens);
}

TEST(WriteText, NeverDrawsARowThatIsNoToken) {
  WriteOptions options{.ignore_end_of_text = true};
  options.generate.tokens = 3;
  const Scripted result = write_script({4, 4, 4}, options);
  for (const int64_t id : result.context.tokens) EXPECT_LT(id, 4);
}

TEST(WriteText, StopStringEndsTheTextAndStaysInTheState) {
  const Scripted result = write_script({1, 3, 3, 2}, {.stop_strings = {"\n\n"}});
  EXPECT_EQ(result.written.text, "a");
  EXPECT_EQ(result.written.reason, StopReason::kStopString);
  EXPECT_EQ(result.context.tokens, (std::vector<int64_t>{1, 1, 3, 3}));
}

TEST(WriteText, BannedTokensAreNeverDrawn) {
  const auto model = random_byte_model();
  WriteOptions options;
  options.generate.tokens = 60;
  options.generate.sampling.top_p = 1;
  for (int64_t id = 0; id < 256; ++id) {
    if (id != 'x' && id != 'y') options.generate.banned_tokens.push_back(id);
  }
  Context context;
  feed(*model, std::vector<int64_t>{65}, context);
  const Written written = write_text(*model, *data::byte_vocabulary(), options, context);
  EXPECT_EQ(written.text.find_first_not_of("xy"), std::string::npos) << written.text;
  options.generate.banned_tokens = {256};
  EXPECT_THROW(write_text(*model, *data::byte_vocabulary(), options, context), UserError);
}

class Together : public ::testing::TestWithParam<int64_t> {};

TEST_P(Together, TextsAreThoseWrittenAlone) {
  ModelConfig config;
  config.head_qk = GetParam();
  const auto model = random_byte_model(config);
  const auto bytes = data::byte_vocabulary();
  const std::vector<std::string> prompts{"one", "another prompt", "x"};
  const std::vector<uint64_t> seeds{1, 2, 2};
  WriteOptions options{.stop_strings = {"e"}};  // ends some of them early
  options.generate.tokens = 25;
  std::vector<Context> contexts(3);
  std::vector<Written> alone;
  for (size_t i = 0; i < 3; ++i) {
    feed(*model, bytes->encode(prompts[i]), contexts[i]);
    Context own = contexts[i];
    options.generate.seed = seeds[i];
    alone.push_back(write_text(*model, *bytes, options, own));
  }
  const auto together = write_texts(*model, *bytes, options, contexts, seeds);
  ASSERT_EQ(together.size(), 3U);
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(together[i].text, alone[i].text);
    EXPECT_EQ(together[i].reason, alone[i].reason);
    EXPECT_EQ(std::ssize(contexts[i].tokens), std::ssize(prompts[i]) + alone[i].tokens);
  }
}

INSTANTIATE_TEST_SUITE_P(HeadQk, Together, ::testing::Values(0, 8));

TEST(FeedTogether, IsOneForwardPassForAll) {
  const auto model = random_byte_model();
  std::vector<Context> together(2);
  std::vector<Context> alone(2);
  for (size_t i = 0; i < 2; ++i) {
    feed(*model, std::vector<int64_t>(3 + i, 65), together[i]);
    alone[i] = together[i];
    feed(*model, std::vector<int64_t>{static_cast<int64_t>(70 + i)}, alone[i]);
  }
  feed_together(*model, std::vector<int64_t>{70, 71},
                std::vector<Context*>{&together[0], &together[1]});
  for (size_t i = 0; i < 2; ++i) {
    EXPECT_LT((together[i].logits - alone[i].logits).abs().max().item<float>(), 1e-4F);
    EXPECT_EQ(together[i].tokens, alone[i].tokens);
    for (const auto& [name, row] : alone[i].state.rows) {
      EXPECT_TRUE(at::allclose(together[i].state.get(name), row, 1e-4, 1e-5)) << name;
    }
  }
}

TEST(Feed, RefusesIdsOutsideTheVocabularyByPlace) {
  try {
    check_ids(std::vector<int64_t>{1, 300}, 256, "--prompt");
    FAIL() << "300 passed";
  } catch (const UserError& error) {
    EXPECT_STREQ(error.what(), "--prompt: token 1 is 300; ids of this model lie in 0..255");
  }
}

class StateFile : public ::testing::TestWithParam<int> {
 protected:
  static ModelConfig config() {
    ModelConfig config;
    if (GetParam() == 1) config.pre_ffn = true;
    if (GetParam() == 2) config.head_qk = 8;
    if (GetParam() == 3) config.dim_att = 64;
    return config;
  }
  static WriteOptions options(int64_t tokens) {
    WriteOptions options;
    options.generate.tokens = tokens;
    options.generate.penalties = {.presence_penalty = 0.3, .frequency_penalty = 0.4};
    return options;
  }
  TemporaryFolder folder_;
};

TEST_P(StateFile, GoingOnEqualsNotSavingToTheLastBit) {
  const auto model = random_byte_model(config());
  const auto bytes = data::byte_vocabulary();
  Context whole;
  feed(*model, bytes->encode("The state"), whole);
  Context first = whole;
  const std::string text = write_text(*model, *bytes, options(40), whole).text;

  const std::string half = write_text(*model, *bytes, options(17), first).text;
  save_context(first, *model, folder_ / "state.safetensors");
  LoadedContext loaded = load_context(*model, folder_ / "state.safetensors");
  EXPECT_EQ(loaded.warning, "");
  const std::string rest = write_text(*model, *bytes, options(23), loaded.context).text;
  EXPECT_EQ(half + rest, text);
  EXPECT_TRUE(at::equal(loaded.context.logits, whole.logits));
  EXPECT_EQ(loaded.context.tokens, whole.tokens);
  ASSERT_EQ(loaded.context.state.rows.size(), whole.state.rows.size());
  for (const auto& [name, row] : whole.state.rows) {
    EXPECT_TRUE(at::equal(loaded.context.state.get(name), row)) << name;
  }
}

INSTANTIATE_TEST_SUITE_P(Options, StateFile, ::testing::Range(0, 4));

TEST(StateFileNames, AreThoseOfTheFormat) {
  const TemporaryFolder folder;
  const auto model = random_byte_model();
  Context context;
  feed(*model, std::vector<int64_t>{1, 2, 3}, context);
  save_context(context, *model, folder / "s.safetensors");
  const Tensors tensors = read_tensors(folder / "s.safetensors");
  for (const char* row : {"att_x", "aa", "bb", "pp", "ffn_x"}) {
    const auto found = tensors.find(std::string("state.1.") + row);
    ASSERT_NE(found, tensors.end()) << row;
    EXPECT_EQ(found->second.sizes(), at::IntArrayRef({32}));
  }
  EXPECT_EQ(tensors.at("logits").sizes(), at::IntArrayRef({256}));
  EXPECT_TRUE(at::equal(tensors.at("tokens"), at::tensor({1, 2, 3}, at::kLong)));
}

TEST(StateFileChecks, RefuseOtherModelsAndOtherFiles) {
  const TemporaryFolder folder;
  const auto model = random_byte_model();
  Context context;
  feed(*model, std::vector<int64_t>{1, 2, 3}, context);
  save_context(context, *model, folder / "s.safetensors");
  ModelConfig wide;
  wide.dim_att = 64;
  const auto other_size = random_byte_model(wide);
  EXPECT_THROW(load_context(*other_size, folder / "s.safetensors"), UserError);
  const auto other_weights = random_byte_model({}, 8);
  EXPECT_NE(load_context(*other_weights, folder / "s.safetensors").warning, "");
  save_safetensors({{"logits", at::zeros({256})}}, folder / "none.safetensors");
  EXPECT_THROW(load_context(*model, folder / "none.safetensors"), UserError);
}

TEST(ChatText, MessagesAndIntroductionsAreCleaned) {
  EXPECT_EQ(clean_message("  a\r\n\r\nb\\n\\nc \n"), "a\nb\nc");
  EXPECT_EQ(clean_message(" \\n "), "");
  EXPECT_EQ(clean_intro("\n a \r\nb\n \n\n\u3000c\u3000\n\n"), "\na\nb\n\nc");
  EXPECT_EQ(clean_intro(""), "\n");
  EXPECT_EQ(question_prompt(" Why?\n"), "\nQ & A\n\nQuestion:\nWhy?\n\nDetailed Expert Answer:\n");
}

TEST(ChatText, LineBreaksAreForbiddenThenUnlikelyThenLikely) {
  EXPECT_EQ(line_break_bias(-1), -999999999);
  EXPECT_EQ(line_break_bias(0), -999999999);
  EXPECT_DOUBLE_EQ(line_break_bias(1), -3.9);
  EXPECT_DOUBLE_EQ(line_break_bias(40), 0);
  EXPECT_DOUBLE_EQ(line_break_bias(150), 0);
  EXPECT_DOUBLE_EQ(line_break_bias(154), 1);
  EXPECT_DOUBLE_EQ(line_break_bias(500), 3);
}

class ByteChat : public ::testing::Test {
 protected:
  static ChatConfig config() {
    ChatConfig config;
    config.write.generate.tokens = 12;
    return config;
  }
  [[nodiscard]] std::string read() const { return bytes_->decode(chat_.context().tokens); }

  std::shared_ptr<LanguageModel> model_ = random_byte_model();
  std::shared_ptr<const data::Vocabulary> bytes_ = data::byte_vocabulary();
  Chat chat_{*model_, *bytes_, config()};
};

TEST_F(ByteChat, TheModelReadsTheFormOfChatRwkv) {
  const Written first = chat_.say("Hi.", {});
  EXPECT_EQ(read().find("\n\n\nUser: Hi.\n\nBot:"), 0U) << read();
  EXPECT_GT(first.tokens, 0);
  chat_.say("And?", {});
  EXPECT_NE(read().find("\n\nUser: And?\n\nBot:"), std::string::npos) << read();
}

TEST_F(ByteChat, RetryAnswersAnewFromTheSamePlace) {
  const Written first = chat_.say("Hi.", {});
  const size_t length = chat_.context().tokens.size() - static_cast<size_t>(first.tokens);
  const auto again = chat_.retry({});
  ASSERT_TRUE(again.has_value());
  EXPECT_NE(again->text, first.text);
  EXPECT_EQ(chat_.context().tokens.size() - static_cast<size_t>(again->tokens), length);
}

TEST_F(ByteChat, MoreGoesOnAndResetForgets) {
  EXPECT_FALSE(chat_.retry({}).has_value());
  EXPECT_FALSE(chat_.more({}).has_value());
  chat_.say("Hi.", {});
  const std::string before = read();
  const auto more = chat_.more({});
  ASSERT_TRUE(more.has_value());
  EXPECT_EQ(read().find(before), 0U);
  EXPECT_GT(read().size(), before.size());
  chat_.reset();
  EXPECT_EQ(read(), "\n\n\n");
  EXPECT_FALSE(chat_.more({}).has_value());
}

TEST_F(ByteChat, RepeatsByItsSeed) {
  Chat other(*model_, *bytes_, config());
  chat_.say("Hi.", {});
  other.say("Hi.", {});
  EXPECT_EQ(chat_.say("Why?", {}).text, other.say("Why?", {}).text);
}

TEST_F(ByteChat, AQuestionAsideLeavesTheConversation) {
  chat_.say("Hi.", {});
  const std::string before = read();
  EXPECT_GT(chat_.ask("What is rain?", {}).tokens, 0);
  EXPECT_EQ(read(), before);
}

TEST_F(ByteChat, CanBeStoppedAndSavedAndLoaded) {
  int calls = 0;
  const Written stopped = chat_.say("Hi.", [&](std::string_view) { return ++calls < 3; });
  EXPECT_EQ(stopped.reason, StopReason::kInterrupted);
  EXPECT_EQ(stopped.tokens, 3);
  const TemporaryFolder folder;
  chat_.save(folder / "chat.safetensors");
  const std::string next = chat_.say("Go on", {}).text;
  Chat other(*model_, *bytes_, config());
  EXPECT_EQ(other.load(folder / "chat.safetensors"), "");
  EXPECT_EQ(other.say("Go on", {}).text, next);
}

TEST_F(ByteChat, AnEmptyMessageIsRefused) {
  EXPECT_THROW(chat_.say(" \\n", {}), UserError);
  EXPECT_EQ(read(), "\n\n\n");
}

}  // namespace
}  // namespace rwkv::model
