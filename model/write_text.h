#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "data/base/named.h"
#include "data/vocabulary.h"
#include "model/generate.h"

namespace rwkv::model {

/// Why a text ended.
enum class StopReason : uint8_t { kTokens, kStopString, kEndOfText, kInterrupted };
inline constexpr std::array kStopReasonNames{
    Named{StopReason::kTokens, "tokens"}, Named{StopReason::kStopString, "stop"},
    Named{StopReason::kEndOfText, "end_of_text"}, Named{StopReason::kInterrupted, "interrupted"}};

struct WriteOptions {
  GenerateOptions generate = {};
  std::vector<std::string> stop_strings = {};  // the text ends before the first of them
  bool ignore_end_of_text = false;             // never draw that token, instead of ending at it
};

struct Written {
  std::string text;    // as emitted: whole characters, without the stop string
  int64_t tokens = 0;  // drawn and kept
  StopReason reason = StopReason::kTokens;
};

/// Takes text as soon as it is ready to be shown. Called after every token, with nothing where
/// nothing became ready; returns false to end the text.
using Emit = std::function<bool(std::string_view text)>;

/// Writes on from `context` (one token or more), with the penalty weights that
/// options.generate.penalties names. At the end `context` has seen all that was drawn, a stop
/// string included. A character that the last tokens do not complete is left out of the text.
Written write_text(LanguageModel& model, const data::Vocabulary& vocabulary,
                   const WriteOptions& options, Context& context, const Emit& emit = {});

/// Writes several texts at once, options.generate.seed replaced by seeds[i] for contexts[i], with
/// one forward pass for a token of each: much faster than one after the other. Their logits may
/// differ from those of write_text() in the last bits (see feed_together()), and with them, rarely,
/// a draw.
std::vector<Written> write_texts(LanguageModel& model, const data::Vocabulary& vocabulary,
                                 const WriteOptions& options, std::span<Context> contexts,
                                 std::span<const uint64_t> seeds);

/// RWKV-LM's prompt for a question. Line breaks around `question` are dropped.
std::string question_prompt(std::string_view question);

}  // namespace rwkv::model
