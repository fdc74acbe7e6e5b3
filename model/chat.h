#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

#include "model/write_text.h"

namespace rwkv::model {

/// How a chat is led. The defaults are those of ChatRWKV's `v2/chat.py`.
struct ChatConfig {
  std::string user = "User";
  std::string bot = "Bot";
  std::string separator = ":";
  std::string intro;  // what the model reads before the first message; cleaned by clean_intro()
  WriteOptions write{.generate = {.sampling = {.temperature = 1.2, .top_p = 0.5},
                                  .tokens = 999,
                                  .penalties = {.presence_penalty = 0.4,
                                                .frequency_penalty = 0.4,
                                                .penalty_weight = PenaltyWeight::kEvery}},
                     .stop_strings = {"\n\n"}};
};

/// Every line without blanks at its ends, no empty lines, one line break in front (ChatRWKV's
/// refine_context).
std::string clean_intro(std::string_view text);

/// A message as the model may read it: "\r\n" and the typed characters \n become line breaks, runs
/// of them become one, since an empty line would end the turn; blanks at both ends are dropped.
std::string clean_message(std::string_view text);

/// What is added to the logit of a line break after token i of a reply (-1: before the first), so
/// that replies are neither empty nor endless (`v2/chat.py`): never up to i = 0, unlikely up to 40,
/// likely from 150 on. Used where tokens are words (vocabularies above 10000); elsewhere only the
/// first two draws are kept from being line breaks.
double line_break_bias(int64_t i);

/// A conversation in the form
///
///   User: message\n\nBot: reply\n\n
///
/// Replies end at an empty line. One sequence of random numbers runs through the whole chat, so a
/// retry differs and a chat repeats by its seed. Functions that take `emit` show text while it
/// comes.
class Chat {
 public:
  /// Reads the introduction. Both references must outlive the chat.
  Chat(LanguageModel& model, const data::Vocabulary& vocabulary, ChatConfig config);

  /// Answers a message; an empty one is a UserError. When `message` cannot be encoded the
  /// conversation stays as it was.
  Written say(std::string_view message, const Emit& emit);
  /// Answers the last message anew. Nothing when there is none.
  std::optional<Written> retry(const Emit& emit);
  /// Goes on with the last reply. Nothing when there is none.
  std::optional<Written> more(const Emit& emit);
  /// Answers a question in RWKV-LM's form, outside the conversation.
  Written ask(std::string_view question, const Emit& emit);
  /// Forgets the conversation, not the introduction.
  void reset();

  /// State files, see model/state_file.h. load() returns a warning or nothing.
  void save(const std::filesystem::path& file) const;
  std::string load(const std::filesystem::path& file);

  /// May be changed between replies.
  [[nodiscard]] ChatConfig& config() { return config_; }
  [[nodiscard]] const Context& context() const { return context_; }

 private:
  void read(std::string_view text, Context& context) const;
  void shape_reply(int64_t i, at::Tensor& logits) const;
  Written write(Context& context, const Emit& emit, bool is_reply);
  void end_turn();

  LanguageModel& model_;
  const data::Vocabulary& vocabulary_;
  ChatConfig config_;
  int64_t line_break_ = -1;         // the token of "\n", where it has one of its own
  std::vector<int64_t> not_twice_;  // tokens that must not follow themselves
  Context start_;                   // after the introduction
  Context context_;                 // now
  std::optional<Context> asked_;    // after the last message, before its reply
  bool has_reply_ = false;          // that more() can go on with
};

}  // namespace rwkv::model
