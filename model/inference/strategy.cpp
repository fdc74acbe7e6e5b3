#include "model/inference/strategy.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <optional>

#include "data/base/error.h"

namespace rwkv::model {
namespace {

struct Stage {
  Slot slot;
  std::optional<int64_t> count;
  bool plus = false;
};

/// Where a text comes from and what it is, for messages.
struct Source {
  std::string_view option, text;
};

[[noreturn]] void refuse(const Source& source, const std::string& reason) {
  user_error("{}: '{}': {}; write e.g. 'cpu fp32', 'cpu bf16 *10 -> cpu fp32i8' or 'cpu fp32 *4+'",
             source.option, printable(source.text), reason);
}

std::vector<std::string> words_of(std::string_view text) {
  std::vector<std::string> words;
  std::string word;
  for (const char c : text) {
    if (c != ' ' && c != '\t') {
      word += c;
    } else if (!word.empty()) {
      words.push_back(std::exchange(word, {}));
    }
  }
  if (!word.empty()) words.push_back(word);
  return words;
}

std::vector<std::string> stages_of(std::string_view text) {
  std::vector<std::string> stages;
  while (true) {
    const size_t arrow = text.find("->");
    stages.emplace_back(text.substr(0, arrow));
    if (arrow == std::string_view::npos) return stages;
    text.remove_prefix(arrow + 2);
  }
}

bool is_number(std::string_view text, int64_t& value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc{} && end == text.data() + text.size() && value >= 0 && !text.empty();
}

bool is_device(const std::string& word) {
  if (word == "cpu" || word == "cuda" || word == "mps" || word == "dml") return true;
  int64_t index = 0;
  return word.starts_with("cuda:") && is_number(std::string_view(word).substr(5), index);
}

std::optional<WeightForm> form_of(std::string_view dtype) {
  for (const auto& [name, form] :
       {std::pair{"fp32", WeightForm::kFp32}, std::pair{"bf16", WeightForm::kBf16},
        std::pair{"fp16", WeightForm::kFp16}}) {
    if (!dtype.starts_with(name)) continue;
    const std::string_view suffix = dtype.substr(4);
    if (suffix.empty()) return form;
    if (suffix == "i8") return WeightForm::kI8;
    if (suffix == "i8-seed") return WeightForm::kI8Seed;
  }
  return std::nullopt;
}

/// A lone dtype, as tables name it, in the words of the grammar.
std::vector<std::string> spelled_out(std::vector<std::string> words) {
  if (words.empty() || is_device(words[0])) return words;
  if (words[0] == "i8" || words[0] == "i8-seed") words[0] = "fp32" + words[0];
  if (form_of(words[0])) words.insert(words.begin(), "cpu");
  return words;
}

Stage parse_stage(const std::string& text, const Source& source) {
  const std::vector<std::string> words = spelled_out(words_of(text));
  if (words.size() < 2 || words.size() > 3) {
    refuse(source, fmt::format("the stage '{}' is not 'device dtype [*N[+]]'", printable(text)));
  }
  if (!is_device(words[0])) {
    refuse(source, fmt::format("there is no device '{}' (cpu, cuda, cuda:N, mps, dml)",
                               printable(words[0])));
  }
  const auto form = form_of(words[1]);
  if (!form) {
    refuse(source,
           fmt::format("there is no dtype '{}' (fp32, bf16, fp16, each also with i8 or i8-seed)",
                       printable(words[1])));
  }
  Stage stage{{words[0], *form, false}, std::nullopt, false};
  if (words.size() < 3) return stage;
  std::string_view count = words[2];
  stage.plus = count.ends_with('+');
  if (stage.plus) count.remove_suffix(1);
  int64_t value = 0;
  if (!count.starts_with('*') || !is_number(count.substr(1), value) || value > 1'000'000 ||
      (value == 0 && !stage.plus)) {
    refuse(source, fmt::format("'{}' is no count of layers (*N or *N+)", printable(words[2])));
  }
  stage.count = value;
  return stage;
}

/// How many slots each stage takes, and how many of the '+' stage's are streamed.
struct Shares {
  std::vector<int64_t> slots;
  std::optional<size_t> plus;
  int64_t streamed = 0;
};

Shares share_out(const std::vector<Stage>& stages, int64_t total) {
  Shares shares{std::vector<int64_t>(stages.size(), 0), std::nullopt, 0};
  int64_t left = total, open = 0;
  for (size_t i = 0; i < stages.size() && left > 0; ++i) {
    if (stages[i].plus) shares.plus = i;
    if (stages[i].count) {
      shares.slots[i] = std::min(*stages[i].count, left);
      left -= shares.slots[i];
    } else {
      ++open;
    }
  }
  if (left == 0) return shares;
  if (shares.plus) {
    shares.slots[*shares.plus] += left;
    shares.streamed = left;
    return shares;
  }
  for (size_t i = 0; i < stages.size(); ++i) {
    if (stages[i].count) continue;
    shares.slots[i] = left / open--;
    left -= shares.slots[i];
  }
  shares.slots.back() += left;
  return shares;
}

}  // namespace

std::vector<Slot> plan_strategy(std::string_view text, int64_t n_layer, std::string_view option) {
  std::vector<Stage> stages;
  for (const std::string& stage : stages_of(text)) {
    stages.push_back(parse_stage(stage, {option, text}));
  }
  const Shares shares = share_out(stages, n_layer + 1);
  std::vector<Slot> slots;
  for (size_t i = 0; i < stages.size(); ++i) {
    const bool plus = shares.plus && *shares.plus == i;
    const int64_t resident = shares.slots[i] - (plus ? shares.streamed : 0);
    for (int64_t n = 0; n < shares.slots[i]; ++n) {
      slots.push_back(stages[i].slot);
      slots.back().streamed = n >= resident && std::ssize(slots) <= n_layer;
    }
  }
  return slots;
}

bool names_fp16(std::string_view strategy) {
  return strategy.find("fp16") != std::string_view::npos;
}

}  // namespace rwkv::model
