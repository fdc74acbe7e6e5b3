#include "trainer/lambada.h"

#include <fmt/format.h>
#include <torch/torch.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <nlohmann/json.hpp>

#include "data/base/error.h"
#include "trainer/exit_code.h"

namespace rwkv::trainer {
namespace {

LambadaText parse_line(std::string_view line, int64_t number, const std::string& name) {
  const auto object = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
  const bool has_text = object.is_object() && object.contains("text") && object["text"].is_string();
  if (!has_text) user_error("{}, line {}: no object like {{\"text\": \"...\"}}", name, number);
  const auto text = object["text"].get<std::string>();
  const size_t cut = text.rfind(' ');
  if (cut == std::string::npos || cut == 0) {
    user_error("{}, line {}: the text has no last word after a space", name, number);
  }
  return {.context = text.substr(0, cut), .target = text.substr(cut)};
}

}  // namespace

ContinuationScore score_continuation(model::LanguageModel& model, std::span<const int64_t> context,
                                     std::span<const int64_t> continuation) {
  TORCH_CHECK(!context.empty() && !continuation.empty(), "score_continuation: ", context.size(),
              " and ", continuation.size(), " ids; each must be one or more");
  const torch::NoGradGuard no_grad;
  std::vector<int64_t> ids(context.begin(), context.end());
  ids.insert(ids.end(), continuation.begin(), continuation.end() - 1);
  const at::Device device = model.parameters().front().device();
  const at::Tensor input = at::tensor(ids, at::kLong).unsqueeze(0).to(device);
  const at::Tensor logits = model.forward(input).squeeze(0).slice(0, std::ssize(context) - 1);
  const at::Tensor log_p = at::log_softmax(logits, -1, at::kFloat).cpu();
  if (!at::isfinite(logits).all().item<bool>()) {
    throw NotFiniteError("the model's logits are not finite; the weights are damaged");
  }
  ContinuationScore score;
  for (size_t i = 0; i < continuation.size(); ++i) {
    const at::Tensor row = log_p[static_cast<int64_t>(i)];
    score.log_probability += row[continuation[i]].item<double>();
    score.greedy = score.greedy && row.argmax().item<int64_t>() == continuation[i];
  }
  return score;
}

std::vector<LambadaText> parse_lambada(std::string_view jsonl, const std::string& name) {
  std::vector<LambadaText> texts;
  for (int64_t number = 1; !jsonl.empty(); ++number) {
    const size_t end = std::min(jsonl.find('\n'), jsonl.size());
    const std::string_view line = jsonl.substr(0, end);
    if (line.find_first_not_of(" \t\r") != std::string_view::npos) {
      texts.push_back(parse_line(line, number, name));
    }
    jsonl.remove_prefix(std::min(end + 1, jsonl.size()));
  }
  if (texts.empty())
    user_error("{} holds no text; it needs one {{\"text\": \"...\"}} a line", name);
  return texts;
}

double LambadaResult::accuracy() const {
  return texts == 0 ? 0.0 : static_cast<double>(correct) / static_cast<double>(texts);
}

double LambadaResult::perplexity() const {
  return texts == 0 ? 1.0 : std::exp(-log_probability / static_cast<double>(texts));
}

LambadaResult evaluate_lambada(model::LanguageModel& model, const data::Vocabulary& vocabulary,
                               std::span<const LambadaText> texts, int64_t pad,
                               const std::function<void(int64_t, int64_t)>& progress) {
  LambadaResult result;
  for (const LambadaText& text : texts) {
    std::vector<int64_t> context{pad};
    const auto rest = vocabulary.encode(text.context);
    context.insert(context.end(), rest.begin(), rest.end());
    const ContinuationScore score =
        score_continuation(model, context, vocabulary.encode(text.target));
    ++result.texts;
    result.correct += score.greedy ? 1 : 0;
    result.log_probability += score.log_probability;
    if (progress) progress(result.texts, std::ssize(texts));
  }
  return result;
}

int64_t lambada_pad(const data::Vocabulary& vocabulary) {
  const bool world = vocabulary.decode(std::array<int64_t, 1>{0}).empty();
  return world ? 0 : vocabulary.encode("\n").front();
}

}  // namespace rwkv::trainer
