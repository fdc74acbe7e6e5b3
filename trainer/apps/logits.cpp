#include <fmt/format.h>
#include <torch/torch.h>

#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "data/base/atomic_file.h"
#include "data/base/error.h"
#include "data/base/mapped_file.h"
#include "trainer/apps/commands.h"
#include "trainer/exit_code.h"
#include "trainer/model_source.h"

namespace rwkv::apps {
namespace {

struct Arguments {
  std::string model;
  std::string strategy;
  std::string ids;
  std::string out;
  std::string mode = "parallel";
};

std::vector<int64_t> read_ids(const std::string& file, int64_t vocab_size) {
  const MappedFile mapped(file);
  const auto bytes = mapped.bytes();
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  const auto parsed = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  const std::string name = printable(file);
  if (!parsed.is_array() || parsed.empty()) {
    user_error("--ids: {} is no list of integers; write one like [510, 4796, 273]", name);
  }
  std::vector<int64_t> ids;
  ids.reserve(parsed.size());
  for (size_t i = 0; i < parsed.size(); ++i) {
    const auto& id = parsed[i];
    const bool fits = id.is_number_integer() && id.get<int64_t>() >= 0 &&
                      id.get<int64_t>() < vocab_size &&
                      !(id.is_number_unsigned() && id.get<uint64_t>() > INT64_MAX);
    if (!fits) {
      user_error("--ids: entry {} of {} is {}; ids of this model are integers in 0..{}", i, name,
                 printable(id.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace), 40),
                 vocab_size - 1);
    }
    ids.push_back(id.get<int64_t>());
  }
  return ids;
}

/// Logits [T,V] of all positions.
at::Tensor compute(model::LanguageModel& model, const std::vector<int64_t>& ids, bool recurrent) {
  const torch::NoGradGuard no_grad;
  const at::Tensor input = at::tensor(ids, at::kLong).unsqueeze(0);
  model::State state;
  if (!recurrent) return model.forward(input, &state, model::Positions::kAll).squeeze(0);
  std::vector<at::Tensor> rows;
  for (int64_t t = 0; t < input.size(1); ++t) {
    rows.push_back(
        model.forward(input.slice(1, t, t + 1), &state, model::Positions::kAll).view({-1}));
  }
  return at::stack(rows);
}

/// One row of logits a line, with nine digits: enough to give float32 back exactly.
void write_rows(const at::Tensor& logits_TV, const std::string& path) {
  const at::Tensor rows = logits_TV.to(at::kFloat).contiguous();
  AtomicFile file(path);
  file.write("[");
  for (int64_t t = 0; t < rows.size(0); ++t) {
    std::string line = t == 0 ? "[" : ",\n[";
    const float* values = rows[t].const_data_ptr<float>();
    for (int64_t v = 0; v < rows.size(1); ++v) {
      line += fmt::format("{}{:.9g}", v == 0 ? "" : ", ", values[v]);
    }
    file.write(line + "]");
  }
  file.write("]\n");
  file.commit();
}

/// Another name for the same file would lose what was read from it.
void check_output(const Arguments& arguments) {
  std::error_code differs;
  for (const std::string& input : {arguments.ids, arguments.model}) {
    if (!std::filesystem::equivalent(arguments.out, input, differs)) continue;
    user_error("--out: {} is what is read; choose another name", printable(arguments.out));
  }
}

int logits(const Arguments& arguments) {
  check_output(arguments);
  const auto source = trainer::open_model(arguments.model, {}, arguments.strategy);
  const auto ids = read_ids(arguments.ids, source.model->config().vocab_size);
  const at::Tensor rows = compute(*source.model, ids, arguments.mode == "recurrent");
  if (!at::isfinite(rows).all().item<bool>()) {
    user_error(
        "--model: {} gives logits that are not finite; the weights are damaged or training "
        "diverged",
        printable(arguments.model));
  }
  write_rows(rows, arguments.out);
  return trainer::kFinished;
}

}  // namespace

void add_logits(CLI::App& program, int& exit_code) {
  auto* command = program.add_subcommand(
      "logits", "Compute the logits of every position of a list of token ids");
  auto arguments = std::make_shared<Arguments>();
  command
      ->add_option("--model", arguments->model,
                   "Run folder, checkpoint, weight file or Hugging Face folder")
      ->required();
  add_strategy_option(*command, arguments->strategy);
  command->add_option("--ids", arguments->ids, "JSON file: a list of token ids")->required();
  command
      ->add_option("--out", arguments->out,
                   "JSON file to write: a list of rows of logits, one a position")
      ->required();
  command
      ->add_option("--mode", arguments->mode,
                   "parallel: all at once; recurrent: token by token with the state")
      ->check(CLI::IsMember({"parallel", "recurrent"}))
      ->capture_default_str();
  command->callback([arguments, &exit_code] { exit_code = logits(*arguments); });
}

}  // namespace rwkv::apps
