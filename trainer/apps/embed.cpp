#include <fmt/format.h>
#include <torch/torch.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "data/base/atomic_file.h"
#include "data/base/error.h"
#include "data/npy.h"
#include "model/generate.h"
#include "model/sentence_embedding.h"
#include "trainer/apps/commands.h"
#include "trainer/apps/model_options.h"
#include "trainer/apps/output.h"
#include "trainer/apps/text_input.h"
#include "trainer/exit_code.h"

namespace rwkv::apps {
namespace {

struct Arguments {
  ModelArguments model;
  std::string texts;
  std::string out;
  std::vector<std::string> rows{"att_x", "wkv", "ffn_x"};
  std::vector<int64_t> layers;
  std::string norm;
  std::string write_norm;
};

model::EmbeddingConfig embedding_config(const Arguments& arguments) {
  model::EmbeddingConfig config{.rows = {}, .layers = arguments.layers};
  for (const std::string& word : arguments.rows) {
    for (const auto& entry : model::kEmbeddingRowNames) {
      if (entry.name == word) config.rows.push_back(entry.value);
    }
  }
  return config;
}

/// One vector for each line, an empty one included, [N,D].
at::Tensor embed_lines(const trainer::ModelSource& source, std::string_view text,
                       const std::string& name, const model::EmbeddingConfig& config) {
  const auto lines = lines_of(text);
  if (lines.empty()) user_error("{} is empty; write one text a line", name);
  const auto progress = waiting_line("texts");
  std::vector<at::Tensor> vectors;
  for (size_t i = 0; i < lines.size(); ++i) {
    const std::string place = fmt::format("{}, line {}", name, i + 1);
    std::vector<int64_t> ids;
    try {
      ids = source.vocabulary->encode(lines[i]);
    } catch (const UserError& error) {
      user_error("{}: {}", place, error.what());
    }
    model::check_ids(ids, source.model->config().vocab_size, place.c_str());
    model::Context context;
    model::feed(*source.model, ids, context);
    vectors.push_back(model::sentence_embedding(context.state, source.model->config(), config));
    if (progress) progress(static_cast<int64_t>(i + 1), std::ssize(lines));
  }
  return at::stack(vectors);
}

/// One JSON list a line, with nine digits: enough to give float32 back exactly.
std::string json_lines(const at::Tensor& vectors) {
  std::string text;
  for (int64_t n = 0; n < vectors.size(0); ++n) {
    const auto* values = vectors.const_data_ptr<float>() + n * vectors.size(1);
    for (int64_t d = 0; d < vectors.size(1); ++d) {
      text += fmt::format("{}{:.9g}", d == 0 ? "[" : ", ", values[d]);
    }
    text += "]\n";
  }
  return text;
}

void write_vectors(const at::Tensor& vectors, const std::string& out) {
  if (out.empty()) return write_output(json_lines(vectors));
  if (!out.ends_with(".npy")) return write_file_atomically(out, json_lines(vectors));
  data::write_npy(out,
                  std::span(vectors.const_data_ptr<float>(), static_cast<size_t>(vectors.numel())),
                  vectors.size(1));
}

void check_arguments(const Arguments& arguments) {
  const bool known = arguments.out.empty() || arguments.out.ends_with(".npy") ||
                     arguments.out.ends_with(".json") || arguments.out.ends_with(".jsonl");
  if (!known) {
    user_error("--out: {} ends in neither .npy, .json nor .jsonl; its end says what is written",
               printable(arguments.out));
  }
  std::error_code differs;
  for (const std::string& input : {arguments.texts, arguments.model.model, arguments.norm}) {
    for (const std::string& output : {arguments.out, arguments.write_norm}) {
      if (!std::filesystem::equivalent(output, input, differs)) continue;
      user_error("{} is what is read; choose another name for the output", printable(output));
    }
  }
}

int embed(const Arguments& arguments) {
  check_arguments(arguments);
  const std::string text = read_text(arguments.texts);
  const auto source = open_text_model(arguments.model, "MODEL");
  const std::string name = arguments.texts == "-" ? "standard input" : printable(arguments.texts);
  at::Tensor vectors = embed_lines(source, text, name, embedding_config(arguments));
  if (!at::isfinite(vectors).all().item<bool>()) {
    user_error("{}: the state is not finite; the weights are damaged or training diverged",
               printable(arguments.model.model));
  }
  if (!arguments.write_norm.empty()) {
    model::save_statistics(model::channel_statistics(vectors), arguments.write_norm);
  }
  if (!arguments.norm.empty()) {
    vectors = model::normalised(vectors, model::load_statistics(arguments.norm));
  }
  write_vectors(vectors.contiguous(), arguments.out);
  return trainer::kFinished;
}

}  // namespace

void add_embed(CLI::App& program, int& exit_code) {
  auto* command = program.add_subcommand(
      "embed", "Turn texts into vectors: what the model remembers after each of them");
  auto arguments = std::make_shared<Arguments>();
  add_model_positional(*command, arguments->model);
  command
      ->add_option("TEXTS", arguments->texts, "File with one text a line; - reads standard input")
      ->required();
  command->add_option("--out", arguments->out,
                      "File to write: .npy (float32, one row a text) or .json/.jsonl (one list a "
                      "line); without it, JSON is printed");
  command
      ->add_option("--rows", arguments->rows, "Rows of the state, of each layer: att_x, wkv, ffn_x")
      ->delimiter(',')
      ->check(CLI::IsMember({"att_x", "wkv", "ffn_x"}))
      ->capture_default_str();
  command->add_option("--layers", arguments->layers, "Layers from 0, e.g. 0,5; without it, all")
      ->delimiter(',');
  command->add_option("--norm", arguments->norm,
                      "Normalise every channel by the mean and deviation in this file");
  command->add_option("--write-norm", arguments->write_norm,
                      "Write mean and deviation of each channel over these texts to this file");
  command->callback([arguments, &exit_code] { exit_code = embed(*arguments); });
}

}  // namespace rwkv::apps
