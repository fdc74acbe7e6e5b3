#pragma once

#include <string>
#include <vector>

#include "data/vocabulary.h"
#include "model/language_model.h"
#include "trainer/config.h"

// Fine-tuning: train.init_from, train.init_partial and optimizer.freeze.
namespace rwkv::trainer {

/// `config` with the sizes and options of the model in train.init_from, where one is set: keys of
/// section `model` that the user did not name come from the file. Throws one UserError with both
/// numbers of every key that he named and that disagrees, unless train.init_partial is set: then
/// his numbers stay. When the file is gone but the run has a checkpoint, that one's sizes are
/// taken.
RunConfig with_sizes_of_initial_weights(RunConfig config);

/// Throws UserError when the model of train.init_from came with a vocabulary and `vocabulary`
/// (null: none) holds other tokens: its embedding would be read with the wrong ids. With
/// train.init_partial another number of tokens is allowed, since then nothing is taken over.
void check_initial_vocabulary(const RunConfig& config, const data::Vocabulary* vocabulary);

/// Loads train.init_from, where one is set, into `model`, which has the sizes of `config`. With
/// train.init_partial it logs what was missing, left over, reshaped, stretched or unfit. Throws
/// UserError.
void load_initial_weights(const RunConfig& config, model::LanguageModel& model);

/// Takes the parameters whose names match one of `patterns` (* = any text, ? = any character) out
/// of training. Throws UserError for a pattern without a match, and when nothing is left to train.
void freeze(model::LanguageModel& model, const std::vector<std::string>& patterns);

/// Whether `pattern` with * and ? describes the whole of `text`.
bool matches_pattern(std::string_view pattern, std::string_view text);

}  // namespace rwkv::trainer
