#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "data/vocabulary.h"
#include "model/inference/strategy.h"
#include "model/language_model.h"

namespace rwkv::trainer {

/// A trained model and how it reads text.
struct ModelSource {
  std::shared_ptr<model::LanguageModel> model;
  std::shared_ptr<const data::Vocabulary> vocabulary;  // null when unknown
  std::filesystem::path weights;                       // the file or folder that was read
};

/// Opens what `--model` names: a run's folder (its newest valid checkpoint), a checkpoint's folder,
/// a weight file or a Hugging Face folder, see formats::open_tensor_file(). Sizes come from the
/// file; model.head_qk_reduce comes from the checkpoint, and is `sum` for a single file. The
/// vocabulary is `vocab_file` (see data::open_vocabulary) if given, the one beside the weights, or
/// the bytes when the model has 256 tokens.
/// `strategy` says in which precision and from where the weights are used (see
/// model/inference/strategy.h). Models that model::load_inference_model() does not know run as
/// modules in fp32, which is the default strategy; another one is a UserError for them.
ModelSource open_model(const std::filesystem::path& path, const std::string& vocab_file = {},
                       const std::string& strategy = model::kDefaultStrategy);

/// The tokenizer or vocab.json that lies in the folder of `weights`, as checkpoints and Hugging
/// Face folders have it.
std::optional<std::filesystem::path> vocabulary_beside(const std::filesystem::path& weights);

/// How Head-QK was trained cannot be read off weights; a checkpoint says it in its config.yaml.
/// `sum` for weights that lie in no checkpoint.
model::HeadQkReduce stored_head_qk_reduce(const std::filesystem::path& weights);

/// The weight file or Hugging Face folder that `path` stands for (see open_model). `option` is what
/// the user wrote it behind, for messages.
std::filesystem::path find_weights(const std::filesystem::path& path,
                                   std::string_view option = "--model");

}  // namespace rwkv::trainer
