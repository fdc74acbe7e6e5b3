#include "trainer/apps/text_input.h"

#include <fmt/format.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <nlohmann/json.hpp>

#include "data/base/error.h"
#include "data/base/mapped_file.h"

namespace rwkv::apps {
namespace {

std::string read_standard_input() {
  std::string text;
  std::array<char, 1 << 16> buffer{};
  while (const size_t n = std::fread(buffer.data(), 1, buffer.size(), stdin)) {
    text.append(buffer.data(), n);
  }
  if (std::ferror(stdin) != 0) user_error("standard input: {}", std::strerror(errno));
  return text;
}

using nlohmann::json;

/// An integer of 0 or more.
int64_t count_of(const json& value, const std::string& what) {
  const bool fits = value.is_number_unsigned() && value.get<uint64_t>() <= INT64_MAX;
  if (!fits) {
    user_error("{} is {}; use an integer of 0 or more", what,
               printable(value.dump(-1, ' ', false, json::error_handler_t::replace), 40));
  }
  return value.get<int64_t>();
}

PromptLine parse_json_prompt(std::string_view text, int64_t number, const std::string& name) {
  const json object = json::parse(text, nullptr, /*allow_exceptions=*/false);
  const std::string place = fmt::format("{}, line {}", name, number);
  const bool has_prompt = object.is_object() && object.contains("prompt");
  const bool has_tokens = object.is_object() && object.contains("tokens");
  const bool fits = has_prompt != has_tokens && (!has_prompt || object["prompt"].is_string()) &&
                    (!has_tokens || object["tokens"].is_array());
  if (!fits) {
    user_error(
        "{}: no object like {{\"prompt\": \"text\", \"seed\": 1}} or {{\"tokens\": [510, 187]}}",
        place);
  }
  for (const auto& [key, value] : object.items()) {
    if (key == "prompt" || key == "tokens" || key == "seed") continue;
    user_error("{}: unknown key {}; use prompt or tokens, and seed", place, printable(key, 40));
  }
  PromptLine line{.line = number};
  if (has_prompt) line.prompt = object["prompt"].get<std::string>();
  if (has_tokens) {
    for (const json& id : object["tokens"])
      line.tokens.push_back(count_of(id, place + ": a token"));
  }
  if (object.contains("seed")) line.seed = count_of(object["seed"], place + ": seed");
  return line;
}

}  // namespace

std::string read_text(const std::string& file) {
  if (file == "-") return read_standard_input();
  const MappedFile mapped(file);
  const auto bytes = mapped.bytes();
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

std::vector<std::string_view> lines_of(std::string_view text) {
  std::vector<std::string_view> lines;
  while (!text.empty()) {
    const size_t end = text.find('\n');
    std::string_view line = text.substr(0, end);
    if (line.ends_with('\r')) line.remove_suffix(1);
    lines.push_back(line);
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
  }
  return lines;
}

std::vector<PromptLine> parse_prompts(std::string_view text, bool jsonl, const std::string& name) {
  std::vector<PromptLine> prompts;
  int64_t number = 0;
  for (const std::string_view line : lines_of(text)) {
    ++number;
    if (line.empty()) continue;
    prompts.push_back(jsonl ? parse_json_prompt(line, number, name)
                            : PromptLine{.line = number, .prompt = std::string(line)});
  }
  if (prompts.empty()) user_error("{} holds no prompt; write one a line", name);
  return prompts;
}

}  // namespace rwkv::apps
