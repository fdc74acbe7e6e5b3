#include "model/chat.h"

#include <fmt/format.h>
#include <torch/torch.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <span>
#include <utility>
#include <vector>

#include "data/base/error.h"
#include "model/state_file.h"
#include "model/text_stream.h"

namespace rwkv::model {
namespace {

constexpr double kNever = -999999999;  // as in ChatRWKV: finite, so that it can be added
constexpr int64_t kWordVocabulary = 10000;

std::string_view trimmed(std::string_view text, std::span<const std::string_view> blanks) {
  bool changed = true;
  while (changed) {
    changed = false;
    for (const std::string_view blank : blanks) {
      if (text.starts_with(blank))
        text.remove_prefix(blank.size());
      else if (text.ends_with(blank))
        text.remove_suffix(blank.size());
      else
        continue;
      changed = true;
    }
  }
  return text;
}

/// Ids of `text`. Pile models were trained on an empty line as two tokens 187, while the 20B
/// tokenizer makes one token of it (ChatRWKV does the same for its introductions).
std::vector<int64_t> encode(const data::Vocabulary& vocabulary, std::string_view text) {
  constexpr int64_t kLineBreak20B = 187;
  constexpr int64_t kEmptyLine20B = 535;
  std::vector<int64_t> ids = vocabulary.encode(text);
  const bool ends_so = !ids.empty() && ids.back() == kEmptyLine20B && text.ends_with("\n\n") &&
                       vocabulary.decode(std::array{kEmptyLine20B}) == "\n\n" &&
                       vocabulary.decode(std::array{kLineBreak20B}) == "\n";
  if (ends_so) {
    ids.back() = kLineBreak20B;
    ids.push_back(kLineBreak20B);
  }
  return ids;
}

/// Ids of `text`, or none where the vocabulary cannot express it.
std::vector<int64_t> tokens_if_known(const data::Vocabulary& vocabulary, std::string_view text) {
  std::vector<int64_t> ids = vocabulary.encode(text);
  if (vocabulary.decode(ids) != text) ids.clear();
  return ids;
}

/// The end of what was read and written, enough to see whether it is an empty line.
std::string tail_of(const data::Vocabulary& vocabulary, const std::vector<int64_t>& tokens) {
  return vocabulary.decode(std::span(tokens).last(std::min<size_t>(tokens.size(), 2)));
}

}  // namespace

std::string clean_intro(std::string_view text) {
  constexpr std::array<std::string_view, 4> kBlanks{" ", "\t", "\r", "\u3000"};
  std::string cleaned = "\n";
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n'), text.size());
    const std::string_view line = trimmed(text.substr(0, end), kBlanks);
    const bool repeats = line.empty() && (cleaned == "\n" || cleaned.ends_with("\n\n"));
    if (!repeats) cleaned.append(line).append("\n");
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  while (cleaned.size() > 1 && cleaned.ends_with('\n')) cleaned.pop_back();
  return cleaned;
}

std::string clean_message(std::string_view text) {
  constexpr std::array<std::string_view, 4> kBlanks{" ", "\t", "\r", "\n"};
  std::string message;
  for (size_t i = 0; i < text.size(); ++i) {
    const std::string_view pair = text.substr(i, 2);
    const bool is_break = pair == "\\n" || pair == "\r\n";
    const char c = is_break ? '\n' : text[i];
    if (is_break) ++i;
    if (c != '\n' || !message.ends_with('\n')) message += c;
  }
  return std::string(trimmed(message, kBlanks));
}

double line_break_bias(int64_t i) {
  if (i <= 0) return kNever;
  const auto n = static_cast<double>(i);
  if (i <= 40) return (n - 40) / 10;
  return i <= 150 ? 0.0 : std::min(3.0, 0.25 * (n - 150));
}

Chat::Chat(LanguageModel& model, const data::Vocabulary& vocabulary, ChatConfig config)
    : model_(model), vocabulary_(vocabulary), config_(std::move(config)) {
  const auto line_break = vocabulary.encode("\n");
  if (line_break.size() == 1) line_break_ = line_break.front();
  for (const char* mark : {"，", "：", "？", "！"}) {
    const auto ids = tokens_if_known(vocabulary, mark);
    if (ids.size() == 1) not_twice_.push_back(ids.front());
  }
  read(clean_intro(config_.intro) + "\n\n", start_);
  context_ = start_;
}

void Chat::read(std::string_view text, Context& context) const {
  const auto ids = encode(vocabulary_, text);
  check_ids(ids, model_.config().vocab_size, "chat");
  feed(model_, ids, context);
  context.occurrence.clear();
}

/// The rules of `v2/chat.py` for token i of a reply.
void Chat::shape_reply(int64_t i, at::Tensor& logits) const {
  const bool words = vocabulary_.size() > kWordVocabulary;
  if (line_break_ >= 0 && (words || i <= 1)) logits[line_break_] += line_break_bias(i - 1);
  if (const auto end = vocabulary_.end_of_text(); end && i == 0) logits[*end] = kNever;
  const int64_t last = context_.tokens.back();
  if (std::ranges::find(not_twice_, last) != not_twice_.end()) logits[last] = kNever;
}

Written Chat::write(Context& context, const Emit& emit, bool is_reply) {
  WriteOptions options = config_.write;
  if (is_reply) {
    options.generate.adjust = [this](int64_t i, at::Tensor& logits) { shape_reply(i, logits); };
  }
  return write_text(model_, vocabulary_, options, context, emit);
}

/// A reply that met no empty line, or whose character was cut off, is ended by one.
void Chat::end_turn() {
  const std::string tail = tail_of(vocabulary_, context_.tokens);
  if (tail.ends_with("\n\n")) return;
  read(tail.ends_with('\n') ? "\n" : "\n\n", context_);
}

Written Chat::say(std::string_view message, const Emit& emit) {
  const std::string text = clean_message(message);
  if (text.empty()) user_error("the message is empty; type some text");
  const Context before = context_;
  try {
    end_turn();
    read(fmt::format("{0}{2} {3}\n\n{1}{2}", config_.user, config_.bot, config_.separator, text),
         context_);
  } catch (const UserError&) {
    context_ = before;
    throw;
  }
  asked_ = context_;
  has_reply_ = true;
  return write(context_, emit, /*is_reply=*/true);
}

std::optional<Written> Chat::retry(const Emit& emit) {
  if (!asked_) return {};
  const uint64_t draws = context_.draws;
  context_ = *asked_;
  context_.draws = draws;
  return write(context_, emit, /*is_reply=*/true);
}

std::optional<Written> Chat::more(const Emit& emit) {
  if (!has_reply_) return {};
  return write(context_, emit, /*is_reply=*/false);
}

Written Chat::ask(std::string_view question, const Emit& emit) {
  Context aside;
  aside.draws = context_.draws;
  read(question_prompt(clean_message(question)), aside);
  const Written written = write(aside, emit, /*is_reply=*/false);
  context_.draws = aside.draws;
  return written;
}

void Chat::reset() {
  const uint64_t draws = context_.draws;
  context_ = start_;
  context_.draws = draws;
  asked_.reset();
  has_reply_ = false;
}

void Chat::save(const std::filesystem::path& file) const { save_context(context_, model_, file); }

std::string Chat::load(const std::filesystem::path& file) {
  LoadedContext loaded = load_context(model_, file);
  context_ = std::move(loaded.context);
  asked_.reset();
  has_reply_ = true;
  return loaded.warning;
}

}  // namespace rwkv::model
