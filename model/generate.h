#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "model/language_model.h"
#include "model/penalties.h"
#include "model/sampling.h"

namespace rwkv::model {

/// Tokens per forward pass of a long text. Results do not depend on it; memory does.
constexpr int64_t kChunkLen = 256;

/// A text as far as it has been read and written: all that is needed to go on with it. A copy is a
/// branch, and shares memory with the original until they part.
struct Context {
  State state;
  at::Tensor logits;  // [V], CPU, float32 (float64 of a float64 model); undefined at first
  std::vector<int64_t> tokens;  // what `state` has seen
  Occurrence occurrence;        // of the reply being written
  uint64_t draws = 0;           // position in the stream of random numbers
};

/// Called with the number of tokens read so far and in all.
using FeedProgress = std::function<void(int64_t done, int64_t all)>;

/// Feeds `ids` to the model in pieces of at most `chunk` tokens and returns the logits after the
/// last one, [V], on the CPU in float32 (float64 for a float64 model). The result does not depend
/// on `chunk`; it bounds the memory of a long prompt. ids: one or more.
at::Tensor prefill(LanguageModel& model, std::span<const int64_t> ids, State& state,
                   int64_t chunk = kChunkLen, const FeedProgress& progress = {});

/// Throws UserError, naming `place`, unless all ids lie in [0, vocab_size).
void check_ids(std::span<const int64_t> ids, int64_t vocab_size, const char* place);

/// Feeds `ids` (any number) to the model: `context` then ends after them, its logits are those of
/// the next token.
void feed(LanguageModel& model, std::span<const int64_t> ids, Context& context,
          int64_t chunk = kChunkLen, const FeedProgress& progress = {});

/// Feeds ids[i] to contexts[i] in one forward pass for all, which costs little more than one text
/// alone. Sums in another order than feed(), so logits may differ in the last bits. Contexts whose
/// states have other shapes (Head-QK remembers as many rows as tokens) are fed one by one.
void feed_together(LanguageModel& model, std::span<const int64_t> ids,
                   std::span<Context* const> contexts);

struct GenerateOptions {
  SamplingConfig sampling = {};
  int64_t tokens = 200;  // how many to draw at most
  uint64_t seed = 42;
  PenaltyConfig penalties = {};
  std::vector<int64_t> stop_tokens = {};    // drawing one ends the text; it is neither kept nor fed
  std::vector<int64_t> banned_tokens = {};  // never drawn
  /// How much a token counts for the frequency penalty; empty: 1 for every token.
  std::function<double(int64_t id)> weight_of = {};
  /// Changes the logits of draw i = 0, 1, ... before bans and penalties; may be empty.
  std::function<void(int64_t i, at::Tensor& logits)> adjust = {};
};

/// Writes one text token by token: bans, penalties, sampler, draw, in this order (the `rwkv`
/// package's generate()). The token drawn last is fed only when it is needed.
class Generator {
 public:
  /// Goes on from `context`, which has seen one token or more. All references must outlive it.
  Generator(LanguageModel& model, const GenerateOptions& options, Context& context);

  /// Draws a token, or nothing when it is a stop token.
  std::optional<int64_t> next();
  /// Feeds the last token if that has not been done: `context` then ends after all that was
  /// written.
  void settle();
  /// settle() of all of them by feed_together().
  static void settle_all(LanguageModel& model, std::span<Generator* const> generators);

 private:
  LanguageModel& model_;
  const GenerateOptions& options_;
  Context& context_;
  DrawStream stream_;
  std::optional<int64_t> pending_;  // drawn and not fed
  int64_t drawn_ = 0;
};

/// Draws tokens one by one after `prompt` (one or more ids) and hands each to `on_token`, which
/// returns false to stop early. `state` is what came before the prompt and ends after the last
/// token that was fed. Returns the drawn ids.
std::vector<int64_t> generate(LanguageModel& model, std::span<const int64_t> prompt,
                              const GenerateOptions& options, State& state,
                              const std::function<bool(int64_t)>& on_token);

}  // namespace rwkv::model
