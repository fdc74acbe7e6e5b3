#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "data/vocabulary.h"
#include "model/language_model.h"

namespace rwkv::trainer {

/// How a model likes one continuation of a context.
struct ContinuationScore {
  double log_probability = 0;  // nats, summed over the tokens of the continuation
  bool greedy = true;          // every token was the likeliest one
};

/// Runs context + continuation (one id or more each) from the empty state. P is the softmax of the
/// logits in float32. Throws NotFiniteError for logits that are not finite.
ContinuationScore score_continuation(model::LanguageModel& model, std::span<const int64_t> context,
                                     std::span<const int64_t> continuation);

/// A text of LAMBADA (Paperno et al. 2016, arXiv:1606.06031), cut at its last space.
struct LambadaText {
  std::string context;
  std::string target;  // with the space in front
};

/// One JSON object {"text": "..."} a line. Throws UserError that names line and file.
std::vector<LambadaText> parse_lambada(std::string_view jsonl, const std::string& name);

struct LambadaResult {
  int64_t texts = 0;
  int64_t correct = 0;         // texts whose target was the likeliest token by token
  double log_probability = 0;  // sum over texts

  [[nodiscard]] double accuracy() const;
  /// Per text (that is, per word), not per token.
  [[nodiscard]] double perplexity() const;
};

/// RWKV's way (ChatRWKV `v2/benchmark.py`): `pad` + encode(context), then encode(target), encoded
/// apart. `progress` is called with texts done and in all.
LambadaResult evaluate_lambada(model::LanguageModel& model, const data::Vocabulary& vocabulary,
                               std::span<const LambadaText> texts, int64_t pad,
                               const std::function<void(int64_t, int64_t)>& progress = {});

/// The token that ChatRWKV puts in front: 0 (end of text) for World vocabularies, else that of a
/// line break, 187 with the 20B tokenizer.
int64_t lambada_pad(const data::Vocabulary& vocabulary);

}  // namespace rwkv::trainer
