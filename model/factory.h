#pragma once

#include <memory>
#include <span>
#include <string_view>

#include "model/language_model.h"

namespace rwkv::model {

/// One row of the table of architectures.
struct Architecture {
  std::string_view name;  // the value of `model.arch`
  std::shared_ptr<LanguageModel> (*build)(const ModelConfig&);
};

/// All architectures that can be built.
std::span<const Architecture> architectures();

/// Builds the model that `config.arch` names, with unspecified weights. Throws UserError for an
/// unknown name.
std::shared_ptr<LanguageModel> build_model(const ModelConfig& config);

}  // namespace rwkv::model
