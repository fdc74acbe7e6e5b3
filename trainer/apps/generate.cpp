#include <fmt/format.h>

#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "data/base/error.h"
#include "model/generate.h"
#include "trainer/apps/commands.h"
#include "trainer/exit_code.h"
#include "trainer/model_source.h"

namespace rwkv::apps {
namespace {

struct Arguments {
  std::string model;
  std::string strategy;
  std::string vocab;
  std::string prompt = "\n";
  model::GenerateOptions options;
};

/// Prints bytes as soon as they end a whole UTF-8 character, so that a terminal never sees half of
/// one.
class CharacterStream {
 public:
  void write(std::string_view bytes) {
    pending_ += bytes;
    const size_t whole = pending_.size() - data::incomplete_utf8_tail(pending_);
    std::fwrite(pending_.data(), 1, whole, stdout);
    std::fflush(stdout);
    pending_.erase(0, whole);
  }
  ~CharacterStream() { std::fwrite(pending_.data(), 1, pending_.size(), stdout); }

 private:
  std::string pending_;
};

int generate(const Arguments& arguments) {
  model::check(arguments.options.sampling, "--");
  if (arguments.options.tokens < 0) {
    user_error("--tokens: {} is negative; use 0 or more", arguments.options.tokens);
  }
  const auto source = trainer::open_model(arguments.model, arguments.vocab, arguments.strategy);
  if (!source.vocabulary) {
    user_error(
        "--model: {} names no vocabulary and has {} tokens; give its vocab.json with --vocab, or "
        "use 'rwkv "
        "logits' with token ids",
        printable(arguments.model), source.model->config().vocab_size);
  }
  const auto prompt = source.vocabulary->encode(arguments.prompt);
  if (prompt.empty()) user_error("--prompt: the text is empty; give at least one character");
  fmt::print("{}", arguments.prompt);
  model::State state;
  {
    CharacterStream out;
    model::generate(*source.model, prompt, arguments.options, state, [&](int64_t id) {
      out.write(source.vocabulary->decode(std::vector{id}));
      return true;
    });
  }
  fmt::print("\n");
  return trainer::kFinished;
}

}  // namespace

void add_generate(CLI::App& program, int& exit_code) {
  auto* command = program.add_subcommand("generate", "Write text that goes on from a prompt");
  auto arguments = std::make_shared<Arguments>();
  auto& options = arguments->options;
  command
      ->add_option("--model", arguments->model,
                   "Run folder, checkpoint, weight file or Hugging Face folder")
      ->required();
  add_strategy_option(*command, arguments->strategy);
  command->add_option("--vocab", arguments->vocab,
                      "vocab.json of a character model without a checkpoint");
  command->add_option("--prompt", arguments->prompt, "Text to go on from")
      ->default_str("a line break");
  command->add_option("--tokens", options.tokens, "How many tokens to write")
      ->capture_default_str();
  command
      ->add_option("--temperature", options.sampling.temperature,
                   "Above 1 more varied, below 1 more likely, 0 always the likeliest token")
      ->capture_default_str();
  command
      ->add_option("--top-p", options.sampling.top_p,
                   "Keep the likeliest tokens of this total probability")
      ->capture_default_str();
  command->add_option("--seed", options.seed, "The same seed writes the same text")
      ->capture_default_str();
  command->callback([arguments, &exit_code] { exit_code = generate(*arguments); });
}

}  // namespace rwkv::apps
