#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

#include "data/base/error.h"
#include "model/state_file.h"
#include "model/write_text.h"
#include "trainer/apps/commands.h"
#include "trainer/apps/model_options.h"
#include "trainer/apps/output.h"
#include "trainer/apps/sampling_options.h"
#include "trainer/apps/text_input.h"
#include "trainer/exit_code.h"

namespace rwkv::apps {
namespace {

struct Arguments {
  ModelArguments model;
  SamplingArguments sampling;
  std::string prompt;
  std::string prompt_file;
  std::string question;
  std::string prompts;
  int64_t batch = 1;
  std::vector<std::string> stop;
  bool ignore_end_of_text = false;
  bool no_echo = false;
  std::string save_state;
  std::string load_state;
};

model::WriteOptions write_options(const Arguments& arguments) {
  return {.generate = generate_options(arguments.sampling),
          .stop_strings = arguments.stop,
          .ignore_end_of_text = arguments.ignore_end_of_text};
}

/// Where all texts of this call begin: nothing, or the state file's end.
model::Context first_context(const Arguments& arguments, model::LanguageModel& language_model) {
  if (arguments.load_state.empty()) return {};
  model::LoadedContext loaded = model::load_context(language_model, arguments.load_state);
  if (!loaded.warning.empty()) spdlog::warn(loaded.warning);
  return std::move(loaded.context);
}

/// Reads a prompt into `context`; a reply begins, so penalties start anew.
void read_prompt(model::LanguageModel& language_model, const std::vector<int64_t>& ids,
                 model::Context& context, const char* option) {
  model::check_ids(ids, language_model.config().vocab_size, option);
  model::feed(language_model, ids, context, model::kChunkLen, waiting_line("reading the prompt"));
  context.occurrence.clear();
}

struct Prompt {
  std::string text;
  const char* option;
  bool shown;  // before the answer
};

Prompt prompt_of(const Arguments& arguments) {
  if (!arguments.question.empty()) {
    return {model::question_prompt(arguments.question), "--qa", false};
  }
  if (!arguments.prompt_file.empty()) {
    return {read_text(arguments.prompt_file), "--prompt-file", !arguments.no_echo};
  }
  return {arguments.prompt, "--prompt", !arguments.no_echo};
}

std::vector<int64_t> encode(const data::Vocabulary& vocabulary, const Prompt& prompt) {
  try {
    return vocabulary.encode(prompt.text);
  } catch (const data::EncodingError& error) {
    user_error("{}: byte {}: {}", prompt.option, error.byte(), error.reason());
  }
}

int write_one(const Arguments& arguments) {
  const model::WriteOptions options = write_options(arguments);
  if (!arguments.save_state.empty()) model::check_state_target(arguments.save_state);
  const Prompt prompt = prompt_of(arguments);
  const auto source = open_text_model(arguments.model);
  check_banned(arguments.sampling, *source.model);
  model::Context context = first_context(arguments, *source.model);
  const auto ids = encode(*source.vocabulary, prompt);
  if (ids.empty() && arguments.load_state.empty()) {
    user_error("{}: the text is empty; give at least one character", prompt.option);
  }
  if (!ids.empty()) read_prompt(*source.model, ids, context, prompt.option);
  // A character that the prompt begins is shown with the text that completes it.
  if (prompt.shown) {
    const std::string_view all = prompt.text;
    write_output(all.substr(0, all.size() - data::incomplete_utf8_tail(all)));
  }
  model::write_text(*source.model, *source.vocabulary, options, context, [](std::string_view text) {
    write_output(text);
    return true;
  });
  write_output("\n");
  if (!arguments.save_state.empty()) {
    model::save_context(context, *source.model, arguments.save_state);
  }
  return trainer::kFinished;
}

struct EncodedPrompt {
  PromptLine line;
  std::vector<int64_t> ids;
};

/// Encodes all prompts before the first is answered: a mistake in the last one costs no time.
std::vector<EncodedPrompt> encode_prompts(const Arguments& arguments,
                                          const trainer::ModelSource& source) {
  const std::string name = printable(arguments.prompts);
  std::vector<EncodedPrompt> prompts;
  for (PromptLine& line :
       parse_prompts(read_text(arguments.prompts), arguments.prompts.ends_with(".jsonl"), name)) {
    const std::string place = fmt::format("{}, line {}", name, line.line);
    try {
      prompts.push_back(
          {line, line.tokens.empty() ? source.vocabulary->encode(line.prompt) : line.tokens});
    } catch (const UserError& error) {
      user_error("{}: {}", place, error.what());
    }
    if (prompts.back().ids.empty()) user_error("{}: the prompt is empty", place);
    model::check_ids(prompts.back().ids, source.vocabulary->size(), place.c_str());
    if (!line.tokens.empty()) prompts.back().line.prompt = source.vocabulary->decode(line.tokens);
  }
  return prompts;
}

std::string json_line(int64_t index, const std::string& prompt, uint64_t seed,
                      const model::Written& written) {
  const nlohmann::ordered_json row = {
      {"index", index},
      {"prompt", prompt},
      {"text", written.text},
      {"tokens", written.tokens},
      {"seed", seed},
      {"end", std::string(name_of(model::kStopReasonNames, written.reason))}};
  return row.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

/// Answers `prompts`, the first of which is number `index` of the file.
void write_group(const trainer::ModelSource& source, const model::WriteOptions& options,
                 const model::Context& start, std::span<const EncodedPrompt> prompts,
                 int64_t index) {
  std::vector<model::Context> contexts(prompts.size(), start);
  std::vector<uint64_t> seeds;
  for (size_t i = 0; i < prompts.size(); ++i) {
    read_prompt(*source.model, prompts[i].ids, contexts[i], "--prompts");
    const auto own = prompts[i].line.seed;
    seeds.push_back(own ? static_cast<uint64_t>(*own) : options.generate.seed);
  }
  const auto written =
      model::write_texts(*source.model, *source.vocabulary, options, contexts, seeds);
  for (size_t i = 0; i < prompts.size(); ++i) {
    write_output(
        json_line(index + static_cast<int64_t>(i), prompts[i].line.prompt, seeds[i], written[i]));
  }
}

/// Every prompt is answered as it would be alone, whatever stands beside it in the file.
int write_all(const Arguments& arguments) {
  if (arguments.batch < 1 || arguments.batch > 4096) {
    user_error("--batch: {} is out of range; use 1 to 4096", arguments.batch);
  }
  const model::WriteOptions options = write_options(arguments);
  const auto source = open_text_model(arguments.model);
  check_banned(arguments.sampling, *source.model);
  const model::Context start = first_context(arguments, *source.model);
  const std::vector<EncodedPrompt> prompts = encode_prompts(arguments, source);
  for (int64_t first = 0; first < std::ssize(prompts); first += arguments.batch) {
    const int64_t size = std::min(arguments.batch, std::ssize(prompts) - first);
    write_group(source, options, start,
                std::span(prompts).subspan(static_cast<size_t>(first), static_cast<size_t>(size)),
                first);
  }
  return trainer::kFinished;
}

int generate(const Arguments& arguments) {
  if (arguments.prompts.empty()) return write_one(arguments);
  if (!arguments.save_state.empty()) {
    user_error(
        "--save-state: one file cannot hold the states of all --prompts; leave one of them out");
  }
  return write_all(arguments);
}

void add_prompt_options(CLI::App& command, Arguments& arguments) {
  auto* prompt = command.add_option("--prompt", arguments.prompt,
                                    "Text to go on from; without one, a line break");
  auto* file = command.add_option("--prompt-file", arguments.prompt_file,
                                  "File with that text; - reads standard input");
  auto* question =
      command.add_option("--qa", arguments.question,
                         "A question, put into RWKV-LM's form; only the answer is printed");
  auto* prompts = command.add_option("--prompts", arguments.prompts,
                                     "File with one prompt a line (.jsonl: objects with \"prompt\" "
                                     "and \"seed\"); writes JSON lines");
  for (auto* option : {file, question, prompts}) option->excludes(prompt);
  question->excludes(file);
  prompts->excludes(file)->excludes(question);
  command
      .add_option("--batch", arguments.batch,
                  "How many of --prompts to write at once: faster, but rounding may change a draw")
      ->needs(prompts)
      ->capture_default_str();
  command.add_flag("--no-echo", arguments.no_echo, "Print the text without the prompt");
}

}  // namespace

void add_generate(CLI::App& program, int& exit_code) {
  auto* command = program.add_subcommand("generate", "Write text that goes on from a prompt");
  auto arguments = std::make_shared<Arguments>();
  add_model_options(*command, arguments->model);
  add_prompt_options(*command, *arguments);
  add_sampling_options(*command, arguments->sampling);
  command->add_option("--stop", arguments->stop, "End before this text; may be given several times")
      ->allow_extra_args(false);
  command->add_flag("--ignore-eot", arguments->ignore_end_of_text,
                    "Never draw the token that ends a text, instead of ending there");
  command->add_option("--save-state", arguments->save_state,
                      "Write what the model remembers at the end to this .safetensors file");
  command->add_option("--load-state", arguments->load_state,
                      "Go on from such a file; without a prompt, right where it ended");
  command->callback([command, arguments, &exit_code] {
    const bool asked = command->count("--prompt") + command->count("--prompt-file") +
                           command->count("--qa") + command->count("--prompts") +
                           command->count("--load-state") >
                       0;
    if (!asked) arguments->prompt = "\n";
    exit_code = generate(*arguments);
  });
}

}  // namespace rwkv::apps
