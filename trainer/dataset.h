#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "data/qa_mixture.h"
#include "data/sampler.h"
#include "data/token_source.h"
#include "data/vocabulary.h"
#include "trainer/config.h"

namespace rwkv::trainer {

/// The texts of a run: what is trained on, what is held out, and the order of the training windows.
struct Dataset {
  std::shared_ptr<const data::TokenSource> train;
  std::shared_ptr<const data::TokenSource> validation;  // null when nothing is held out
  std::shared_ptr<const data::TokenSource> general;     // with data.qa_mask, the text mixed in
  // Which tokens of `train` and `validation` are learned (data/loss_mask.h); null: all of them.
  std::shared_ptr<const data::TokenSource> loss_mask, validation_loss_mask;
  std::shared_ptr<const data::Vocabulary> vocabulary;  // null for ready-made tokens
  std::unique_ptr<const data::Sampler> sampler;
  std::unique_ptr<const data::QaMixture> qa_mixture;  // with data.qa_mask: draws the samples
  int64_t vocab_size = 0;
  std::string fingerprint;  // of what is trained on; equal files have equal ones

  /// Bytes of text behind a token on average: 1 for bytes, more for characters; unknown for
  /// ready-made tokens.
  std::optional<double> train_bytes_per_token;
  std::optional<double> validation_bytes_per_token;
  bool tokens_are_characters = false;

  /// Samples that RWKV-4neo's schedules are laid out for: the magic prime, twice that with qa_mask
  /// 2 (RWKV-LM `RWKV-v4neo/train.py`); 0 for random windows.
  [[nodiscard]] int64_t scheduled_samples(const DataConfig& config) const {
    return sampler->magic_prime() * (config.qa_mask == 2 ? 2 : 1);
  }
};

/// Opens and checks the files of `config`. Throws UserError naming the key, the file and the mend.
Dataset open_dataset(const RunConfig& config);

/// Nats per token as bits per byte of text; nothing when the bytes are unknown.
std::optional<double> bits_per_byte(double nats_per_token, std::optional<double> bytes_per_token);

}  // namespace rwkv::trainer
