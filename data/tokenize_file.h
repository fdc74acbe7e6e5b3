#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "data/base/mapped_file.h"
#include "data/token_source.h"
#include "data/vocabulary.h"

namespace rwkv::data {

struct TokenizeOptions {
  bool jsonl = false;       ///< a document for each line; else the whole file is one document
  bool append_eod = true;   ///< the vocabulary's end-of-text token after each document
  bool keep_empty = false;  ///< also documents without text, as make_data.py of RWKV-5 does;
                            ///< json2binidx drops them
  std::string text_key = "text";
  int64_t workers =
      1;  ///< threads that encode the lines of .jsonl; the result does not depend on it
};

/// Where the tokens go: pieces of documents in order, and the end of each.
struct TokenSink {
  std::function<void(std::span<const int64_t>)> tokens;
  std::function<void()> end_document;
};

struct TokenizeCounts {
  int64_t documents = 0;
  int64_t empty = 0;  ///< documents without text that were dropped
  int64_t tokens = 0;
};

/// Encodes a text or .jsonl file piece by piece; memory does not grow with the file, only with its
/// longest line (of a .txt: the longest stretch without white space). `progress(done, all)` in
/// bytes. Throws UserError with file and place, and std::logic_error when append_eod is set for a
/// vocabulary without such a token.
TokenizeCounts tokenize_file(const MappedFile& file, const Vocabulary& vocabulary,
                             const TokenizeOptions& options, const TokenSink& sink,
                             const std::function<void(int64_t, int64_t)>& progress = {});

/// The file's tokens as a source in memory, of two bytes each where the vocabulary allows, else
/// four.
std::unique_ptr<TokenSource> open_tokenized(const std::string& path,
                                            const std::shared_ptr<const Vocabulary>& vocabulary,
                                            const TokenizeOptions& options);

}  // namespace rwkv::data
