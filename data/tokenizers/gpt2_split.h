#pragma once

#include <cstddef>
#include <string_view>

namespace rwkv::data {

/// Cuts text into pieces as GPT-2's pattern does, without a regular expression:
///
///   's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
///
/// (openai/gpt-2 src/encoder.py; the tokenizers package's ByteLevel). Returns the end of the piece
/// that begins at byte `at`. text: well-formed UTF-8; at < text.size(), where a piece begins.
size_t gpt2_piece_end(std::string_view text, size_t at);

/// The last place in `text` where a piece begins whatever comes before or after: between a visible
/// character and white space (in ASCII). 0 when there is none.
size_t last_sure_gpt2_cut(std::string_view text);

}  // namespace rwkv::data
