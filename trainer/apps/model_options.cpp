#include "trainer/apps/model_options.h"

#include "data/base/error.h"
#include "trainer/apps/commands.h"

namespace rwkv::apps {

namespace {

void add(CLI::App& command, const std::string& name, ModelArguments& arguments) {
  command
      .add_option(name, arguments.model,
                  "Run folder, checkpoint, weight file or Hugging Face folder")
      ->required();
  command.add_option(
      "--vocab", arguments.vocab,
      "tokenizer.json, World vocabulary or vocab.json of a model that lies without it");
}

}  // namespace

void add_model_options(CLI::App& command, ModelArguments& arguments) {
  add(command, "--model", arguments);
  add_strategy_option(command, arguments.strategy);
}

void add_model_positional(CLI::App& command, ModelArguments& arguments) {
  add(command, "MODEL", arguments);
}

trainer::ModelSource open_text_model(const ModelArguments& arguments, std::string_view option) {
  trainer::ModelSource source =
      trainer::open_model(arguments.model, arguments.vocab, arguments.strategy);
  if (!source.vocabulary) {
    user_error(
        "{}: {} names no vocabulary and has {} tokens; give its vocabulary with --vocab, or use "
        "'rwkv logits' with token ids",
        option, printable(arguments.model), source.model->config().vocab_size);
  }
  return source;
}

}  // namespace rwkv::apps
