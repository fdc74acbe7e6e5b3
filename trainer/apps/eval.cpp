#include <fmt/format.h>

#include <chrono>
#include <cmath>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <numbers>
#include <optional>
#include <string>
#include <vector>

#include "data/base/error.h"
#include "data/token_source.h"
#include "trainer/apps/commands.h"
#include "trainer/apps/model_options.h"
#include "trainer/apps/output.h"
#include "trainer/apps/text_input.h"
#include "trainer/exit_code.h"
#include "trainer/lambada.h"
#include "trainer/text_loss.h"

namespace rwkv::apps {
namespace {

using nlohmann::ordered_json;

struct Arguments {
  ModelArguments model;
  std::vector<std::string> against;     // further models
  std::vector<std::string> strategies;  // of each model; none: the default alone
  std::vector<std::string> files;
  std::string lambada;
  std::optional<int64_t> pad;
  int64_t ctx_len = 1024;
  bool windows = false;  // as is without it; it says so
  bool stream = false;
  bool by_position = false;
  bool json = false;

  [[nodiscard]] std::vector<std::string> models() const {
    std::vector<std::string> all{model.model};
    all.insert(all.end(), against.begin(), against.end());
    return all;
  }

  /// Each model in each strategy, and what a row of the table calls that.
  [[nodiscard]] std::vector<std::pair<ModelArguments, std::string>> runs() const {
    std::vector<std::pair<ModelArguments, std::string>> all;
    for (const std::string& name : models()) {
      if (strategies.empty()) all.emplace_back(ModelArguments{name, model.vocab}, name);
      for (const std::string& strategy : strategies) {
        all.emplace_back(ModelArguments{name, model.vocab, strategy}, name + ", " + strategy);
      }
    }
    return all;
  }
};

/// A text and how a model reads it.
struct Input {
  std::string name;
  std::vector<int64_t> ids;
  int64_t bytes = 0;       // after the first token; 0 where the tokens' text is unknown
  int64_t characters = 0;  // as well
};

int64_t count_characters(std::string_view text) {
  int64_t count = 0;
  for (const char c : text) {
    if ((static_cast<unsigned char>(c) & 0xC0U) != 0x80U) ++count;
  }
  return count;
}

bool holds_tokens(const std::string& file) {
  return file.ends_with(".npy") || file.ends_with(".idx") || file.ends_with(".bin") ||
         (!std::filesystem::exists(file) && std::filesystem::exists(file + ".idx"));
}

Input read_tokens(const std::string& file, const data::Vocabulary* vocabulary) {
  const auto source = data::open_tokens({.path = file});
  Input input{.name = file, .ids = std::vector<int64_t>(static_cast<size_t>(source->size()))};
  source->read(0, input.ids);
  if (vocabulary == nullptr || input.ids.empty()) return input;
  model::check_ids(input.ids, vocabulary->size(), printable(file).c_str());
  const std::string text = vocabulary->decode(std::span(input.ids).subspan(1));
  input.bytes = std::ssize(text);
  input.characters = count_characters(text);
  return input;
}

Input read_input(const std::string& file, const trainer::ModelSource& source) {
  if (file.ends_with(".jsonl")) {
    user_error(
        "{}: a .jsonl holds documents; make tokens of them with 'rwkv data build' and name those",
        printable(file));
  }
  if (holds_tokens(file)) return read_tokens(file, source.vocabulary.get());
  if (!source.vocabulary) {
    user_error(
        "{}: the vocabulary of {} is unknown; give its vocab.json with --vocab, or a file of "
        "tokens",
        printable(file), printable(source.weights.string()));
  }
  const std::string text = read_text(file);
  Input input{.name = file, .ids = {}};
  try {
    input.ids = source.vocabulary->encode(text);
  } catch (const UserError& error) {
    user_error("{}: {}", printable(file), error.what());
  }
  if (input.ids.empty()) return input;
  const std::string first = source.vocabulary->decode(std::span(input.ids).first(1));
  input.bytes = std::ssize(text) - std::ssize(first);
  input.characters = count_characters(text) - count_characters(first);
  if (source.vocabulary->decode(input.ids) != text) {
    fmt::print(stderr,
               "rwkv: {}: the vocabulary of {} cannot give it back exactly (unknown characters are "
               "read as spaces, or Unicode was normalised); the loss is that of what was read\n",
               printable(file), printable(source.weights.string()));
  }
  return input;
}

struct Row {
  std::string model;
  std::string file;
  std::string mode;
  trainer::TextLoss loss;
  int64_t bytes = 0;
  int64_t characters = 0;
  double seconds = 0;

  [[nodiscard]] double per_token() const { return loss.nats / static_cast<double>(loss.tokens); }
  [[nodiscard]] double bits() const { return loss.nats / std::numbers::ln2; }
};

Row measure(const Arguments& arguments, const std::string& model_name,
            const trainer::ModelSource& source, const std::string& file) {
  const Input input = read_input(file, source);
  const int64_t vocab_size = source.model->config().vocab_size;
  if (input.ids.size() < 2) {
    user_error("{} has {} tokens; two are needed to predict one", printable(file),
               input.ids.size());
  }
  model::check_ids(input.ids, vocab_size, printable(file).c_str());
  const auto start = std::chrono::steady_clock::now();
  const auto progress = waiting_line(printable(file));
  Row row{.model = model_name,
          .file = file,
          .mode = arguments.stream ? "stream" : fmt::format("windows of {}", arguments.ctx_len),
          .loss = arguments.stream ? trainer::loss_by_stream(*source.model, input.ids, progress)
                                   : trainer::loss_by_windows(*source.model, input.ids,
                                                              arguments.ctx_len, progress),
          .bytes = input.bytes,
          .characters = input.characters};
  row.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return row;
}

/// `value` per one of `units`, or a dash where there are none.
std::string per(double value, int64_t units) {
  return units > 0 ? fmt::format("{:.4f}", value / static_cast<double>(units)) : "-";
}

size_t width_of(std::string_view title, const std::vector<Row>& rows, std::string Row::*field) {
  size_t width = title.size();
  for (const Row& row : rows) width = std::max(width, printable(row.*field, 60).size());
  return width;
}

std::string table(const std::vector<Row>& rows) {
  const size_t models = width_of("model", rows, &Row::model);
  const size_t files = width_of("file", rows, &Row::file);
  const size_t modes = width_of("mode", rows, &Row::mode);
  std::string text =
      fmt::format("{:<{}}  {:<{}}  {:<{}} {:>10} {:>14} {:>10} {:>10} {:>10} {:>10} {:>10} {:>9}\n",
                  "model", models, "file", files, "mode", modes, "tokens", "nats", "nats/token",
                  "perplexity", "bits/token", "bits/char", "bits/byte", "tokens/s");
  for (const Row& row : rows) {
    text += fmt::format(
        "{:<{}}  {:<{}}  {:<{}} {:>10} {:>14.2f} {:>10.4f} {:>10.4f} {:>10} {:>10} {:>10} "
        "{:>9.0f}\n",
        printable(row.model, 60), models, printable(row.file, 60), files, row.mode, modes,
        row.loss.tokens, row.loss.nats, row.per_token(), std::exp(row.per_token()),
        per(row.bits(), row.loss.tokens), per(row.bits(), row.characters),
        per(row.bits(), row.bytes), static_cast<double>(row.loss.tokens) / row.seconds);
  }
  return text;
}

/// Loss by position in the window, in ranges that double: 0, 1, 2-3, 4-7, ...
std::string position_table(const Row& row) {
  std::string text = fmt::format(
      "\nloss by position in the context, {}, {}\n{:>13} {:>12} {:>10}\n", printable(row.model, 60),
      printable(row.file, 60), "positions", "tokens", "nats/token");
  const size_t all = row.loss.nats_at.size();
  for (size_t first = 0; first < all; first = std::max<size_t>(1, 2 * first)) {
    const size_t end = std::min(all, std::max<size_t>(1, 2 * first));
    double nats = 0;
    int64_t tokens = 0;
    for (size_t t = first; t < end; ++t) {
      nats += row.loss.nats_at[t];
      tokens += row.loss.tokens_at[t];
    }
    const std::string range =
        end - first == 1 ? fmt::format("{}", first) : fmt::format("{}-{}", first, end - 1);
    text +=
        fmt::format("{:>13} {:>12} {:>10.4f}\n", range, tokens, nats / static_cast<double>(tokens));
  }
  return text;
}

ordered_json json_of(const Row& row, bool by_position) {
  ordered_json object = {{"model", row.model},
                         {"file", row.file},
                         {"mode", row.mode},
                         {"tokens", row.loss.tokens},
                         {"nats", row.loss.nats},
                         {"nats_per_token", row.per_token()},
                         {"perplexity", std::exp(row.per_token())},
                         {"bits_per_token", row.bits() / static_cast<double>(row.loss.tokens)}};
  if (row.characters > 0) {
    object["characters"] = row.characters;
    object["bits_per_character"] = row.bits() / static_cast<double>(row.characters);
  }
  if (row.bytes > 0) {
    object["bytes"] = row.bytes;
    object["bits_per_byte"] = row.bits() / static_cast<double>(row.bytes);
  }
  object["seconds"] = row.seconds;
  if (!by_position) return object;
  std::vector<double> means;
  for (size_t t = 0; t < row.loss.nats_at.size(); ++t) {
    means.push_back(row.loss.nats_at[t] / static_cast<double>(row.loss.tokens_at[t]));
  }
  object["nats_by_position"] = means;
  return object;
}

std::string dump(const ordered_json& json) {
  return json.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

void eval_files(const Arguments& arguments) {
  std::vector<Row> rows;
  for (const auto& [model, name] : arguments.runs()) {
    const auto source = trainer::open_model(model.model, model.vocab, model.strategy);
    for (const std::string& file : arguments.files) {
      rows.push_back(measure(arguments, name, source, file));
    }
  }
  if (arguments.json) {
    ordered_json list = ordered_json::array();
    for (const Row& row : rows) list.push_back(json_of(row, arguments.by_position));
    return write_output(dump(list));
  }
  write_output(table(rows));
  if (!arguments.by_position) return;
  for (const Row& row : rows) write_output(position_table(row));
}

void eval_lambada(const Arguments& arguments) {
  const auto texts =
      trainer::parse_lambada(read_text(arguments.lambada), printable(arguments.lambada));
  ordered_json list = ordered_json::array();
  std::string table = fmt::format("{:>8} {:>8} {:>9} {:>12}  {}\n", "texts", "PAD", "accuracy",
                                  "perplexity", "model");
  for (const auto& [model, name] : arguments.runs()) {
    const auto source = open_text_model(model, "MODEL");
    const int64_t pad = arguments.pad.value_or(trainer::lambada_pad(*source.vocabulary));
    model::check_ids(std::array{pad}, source.model->config().vocab_size, "--pad");
    const auto result = trainer::evaluate_lambada(*source.model, *source.vocabulary, texts, pad,
                                                  waiting_line("LAMBADA"));
    list.push_back({{"model", name},
                    {"file", arguments.lambada},
                    {"texts", result.texts},
                    {"pad", pad},
                    {"accuracy", result.accuracy()},
                    {"perplexity", result.perplexity()},
                    {"log_probability", result.log_probability}});
    table += fmt::format("{:>8} {:>8} {:>9.4f} {:>12.4f}  {}\n", result.texts, pad,
                         result.accuracy(), result.perplexity(), printable(name));
  }
  write_output(arguments.json ? dump(list) : table);
}

int eval(const Arguments& arguments) {
  if (arguments.files.empty() == arguments.lambada.empty()) {
    user_error("name one or more FILEs for their loss, or --lambada FILE; not both");
  }
  if (arguments.ctx_len < 1 || arguments.ctx_len > 1'000'000'000) {
    user_error("--ctx-len: {} is out of range; use 1 to 1000000000", arguments.ctx_len);
  }
  if (arguments.by_position && arguments.stream) {
    user_error("--by-position: a stream has no windows to count positions in; leave --stream out");
  }
  arguments.lambada.empty() ? eval_files(arguments) : eval_lambada(arguments);
  return trainer::kFinished;
}

}  // namespace

void add_eval(CLI::App& program, int& exit_code) {
  auto* command = program.add_subcommand(
      "eval", "Loss, perplexity and bits per byte of models on texts; LAMBADA");
  auto arguments = std::make_shared<Arguments>();
  add_model_positional(*command, arguments->model);
  command->add_option("FILE", arguments->files,
                      "Texts, or tokens as .npy or .bin/.idx, one row of the table each");
  command
      ->add_option("--against", arguments->against,
                   "A further model for the same table; may be given several times")
      ->allow_extra_args(false);
  command
      ->add_option("--strategy", arguments->strategies,
                   "Precision and place of the weights, see 'rwkv generate --help'; given several "
                   "times, one row of the table each")
      ->allow_extra_args(false);
  auto* stream =
      command->add_flag("--stream", arguments->stream, "Carry the state over the whole file");
  command
      ->add_flag("--windows", arguments->windows,
                 "Windows of --ctx-len, each from the empty state (the default)")
      ->excludes(stream);
  command->add_option("--ctx-len", arguments->ctx_len, "Predicted tokens of a window")
      ->capture_default_str()
      ->excludes(stream);
  command->add_flag("--by-position", arguments->by_position,
                    "Also the loss by position in the window");
  auto* lambada = command->add_option(
      "--lambada", arguments->lambada,
      "File of {\"text\": \"...\"} lines: accuracy and perplexity of last words");
  command
      ->add_option(
          "--pad", arguments->pad,
          "Token put before each text; without it 0 for World vocabularies, else a line break")
      ->needs(lambada);
  command->add_flag("--json", arguments->json, "For programs");
  command->callback([arguments, &exit_code] { exit_code = eval(*arguments); });
}

}  // namespace rwkv::apps
