#pragma once

#include <memory>
#include <string>

#include "data/tokenizers/bpe_tokenizer.h"
#include "data/vocabulary.h"

namespace rwkv::data {

/// Opens "bytes" or a file, which its content identifies: a vocab.json of characters (UTF-8 or
/// UTF-16), a tokenizer.json with a byte-level BPE, or a World vocabulary. `options` concern the
/// BPE alone. Throws UserError that names the file, the place and the mend.
std::shared_ptr<const Vocabulary> open_vocabulary(const std::string& name_or_file,
                                                  const BpeOptions& options = {});

}  // namespace rwkv::data
