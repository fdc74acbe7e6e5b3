#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "data/vocabulary.h"
#include "model/language_model.h"

namespace rwkv::trainer {

/// A trained model and how it reads text.
struct ModelSource {
  std::shared_ptr<model::LanguageModel> model;
  std::shared_ptr<const data::Vocabulary> vocabulary;  // null when unknown
  std::filesystem::path weights;                       // the file that was read
};

/// Opens what `--model` names: a run's folder (its newest valid checkpoint), a checkpoint's folder,
/// or a .pth or safetensors file. Sizes come from the file; model.head_qk_reduce comes from the
/// checkpoint, and is `sum` for a single file. The vocabulary is the checkpoint's own;
/// for a single file it is `vocab_file` (a vocab.json) if given, the bytes when the model has 256
/// tokens, or a vocab.json beside the file.
ModelSource open_model(const std::filesystem::path& path, const std::string& vocab_file = {});

/// The weight file that `path` stands for (see open_model).
std::filesystem::path find_weights(const std::filesystem::path& path);

}  // namespace rwkv::trainer
