#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "data/tokenizers/bpe_merges.h"

namespace rwkv::data {

/// A text that stands for one token wherever it occurs, outside of the merges.
struct AddedToken {
  std::string content;
  uint32_t id = 0;
  bool special = false;
  bool normalized = false;  // looked for after normal form C, else before
};

/// What a tokenizer.json of the byte-level BPE kind holds.
struct TokenizerJson {
  std::vector<std::string> tokens;       // bytes by id; empty where no token has the id
  std::array<uint32_t, 256> byte_ids{};  // for the bytes that occur in UTF-8
  std::vector<BpeMerge> merges;
  std::vector<AddedToken> added;
  bool nfc = false;  // the normalizer
};

/// Reads the file format of Hugging Face's tokenizers package, as far as it describes a byte-level
/// BPE with GPT-2's pre-tokenization (20B_tokenizer.json and its like). Throws UserError that
/// begins with `place` for damage, and for each setting that would change ids and that is not done
/// here.
TokenizerJson parse_tokenizer_json(std::string_view text, std::string_view place);

}  // namespace rwkv::data
