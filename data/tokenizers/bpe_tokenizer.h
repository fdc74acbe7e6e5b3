#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "data/vocabulary.h"

namespace rwkv::data {

struct BpeOptions {
  /// Texts such as <|endoftext|> in a document are plain text instead of the token of that name.
  bool special_as_text = false;
  /// Ill-formed UTF-8 becomes U+FFFD instead of an EncodingError.
  bool replace_ill_formed = false;
};

/// The byte-level BPE of a tokenizer.json (see parse_tokenizer_json), with the ids of Hugging
/// Face's tokenizers package: added tokens, normal form C, GPT-2's pieces, merges.
/// decode(encode(x)) is x in normal form C. Throws UserError that begins with `place`.
std::shared_ptr<const Vocabulary> bpe_tokenizer(std::string json, std::string_view place,
                                                const BpeOptions& options = {});

}  // namespace rwkv::data
