#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "data/vocabulary.h"

namespace rwkv::data {

/// Reads a World vocabulary (BlinkDL/ChatRWKV tokenizer/rwkv_vocab_v20230424.txt): lines `ID
/// LITERAL LENGTH`, where LITERAL is a Python string ('...', stored as UTF-8) or bytes literal
/// (b'...') and LENGTH its size in bytes. The literals are parsed strictly, never evaluated. Ids
/// run from 1 without a gap, and all 256 single bytes are there. Returns the bytes by id, [0]
/// empty. Throws UserError with `place` and the line.
std::vector<std::string> parse_world_vocabulary(std::string_view text, std::string_view place);

/// The World tokenizer: at each place the longest token that matches. Any bytes can be encoded, and
/// decoding gives them back exactly. Id 0 ends a text; it stands for no bytes.
std::shared_ptr<const Vocabulary> world_tokenizer(std::string text, std::string_view place);

}  // namespace rwkv::data
