#pragma once

#include <CLI/CLI.hpp>
#include <string>

#include "trainer/model_source.h"

namespace rwkv::apps {

/// What every command that runs a model on text asks for.
struct ModelArguments {
  std::string model;
  std::string vocab;
  std::string strategy = model::kDefaultStrategy;
};

/// Adds --model, --vocab and --strategy.
void add_model_options(CLI::App& command, ModelArguments& arguments);

/// Adds MODEL, without an option's name, and --vocab.
void add_model_positional(CLI::App& command, ModelArguments& arguments);

/// Opens the model. Throws UserError, which names `option`, when its vocabulary is unknown.
trainer::ModelSource open_text_model(const ModelArguments& arguments,
                                     std::string_view option = "--model");

}  // namespace rwkv::apps
