#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "data/qa_mask.h"
#include "data/sampler.h"
#include "data/token_source.h"

namespace rwkv::data {

/// Training samples of questions and answers mixed half and half with general text (my_qa_mask of
/// RWKV-LM RWKV-v4neo/src/dataset.py). Even ordinals are random windows of the general text; odd
/// ordinals n are sample n / 2 of the questions' sampler. With `answers_only` a window of questions
/// teaches its answers alone (see qa_mask()), and one without any answer gives way to a random
/// window of the general text. A pure function of the ordinal, like Sampler.
class QaMixture {
 public:
  /// `general` must hold ctx_len + 2 tokens. `seed`: of its random windows.
  QaMixture(std::shared_ptr<const TokenSource> questions, const Sampler& sampler,
            std::shared_ptr<const TokenSource> general, int64_t ctx_len, bool answers_only,
            uint64_t seed, const QaPattern& pattern = {});

  /// Samples first_ordinal ... first_ordinal + batch - 1 as fill_batch() gives them, and the weight
  /// of each target in the loss (0 or 1). All three spans: batch * ctx_len, row-major.
  void fill_batch(uint64_t first_ordinal, int64_t batch, std::span<int64_t> inputs,
                  std::span<int64_t> targets, std::span<float> mask, int64_t vocab_size) const;

 private:
  void fill_row(uint64_t ordinal, std::span<int64_t> inputs, std::span<int64_t> targets,
                std::span<float> mask, int64_t vocab_size) const;

  std::shared_ptr<const TokenSource> questions_;
  std::shared_ptr<const TokenSource> general_;
  Sampler sampler_;
  Sampler general_sampler_;
  int64_t ctx_len_;
  bool answers_only_;
  QaPattern pattern_;
};

}  // namespace rwkv::data
