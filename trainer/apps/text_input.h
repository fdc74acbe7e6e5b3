#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace rwkv::apps {

/// All bytes of `file`, or of standard input for "-". Throws UserError that names the file.
std::string read_text(const std::string& file);

/// One prompt of a file of prompts.
struct PromptLine {
  int64_t line = 0;  // from 1
  std::string prompt{};
  std::vector<int64_t> tokens{};  // instead of `prompt`; not checked against any vocabulary
  std::optional<int64_t> seed{};  // of its own
};

/// The prompts of `text`, empty lines left out. With `jsonl`, each line is an object with "prompt"
/// (text) or "tokens" (a list of ids) and, if wanted, "seed"; otherwise the line itself. `name`
/// stands in messages. Throws UserError for a line that is none of these, and when there is no
/// prompt at all.
std::vector<PromptLine> parse_prompts(std::string_view text, bool jsonl, const std::string& name);

/// The lines of `text` without "\n" or "\r\n".
std::vector<std::string_view> lines_of(std::string_view text);

}  // namespace rwkv::apps
