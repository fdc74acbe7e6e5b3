#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace rwkv::data {

/// Whether a line holds nothing but blanks; such lines are skipped.
bool is_blank_line(std::string_view line);

/// The text of one line of a .jsonl file, as lm_dataformat reads it (EleutherAI/lm_dataformat): the
/// string under `key` of an object, whose other keys are ignored; a list of strings there is joined
/// by "\n\n"; a line that is a string is the text itself. Throws UserError that begins with `place`
/// and the line for anything else: ill-formed JSON or UTF-8, lone surrogates, a missing or repeated
/// key, another type.
std::string jsonl_text(std::string_view line, std::string_view key, std::string_view place,
                       int64_t line_number);

}  // namespace rwkv::data
