#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "data/indexed_dataset_builder.h"
#include "data/tokenizers/open_vocabulary.h"

namespace rwkv::apps {

/// What `rwkv data build` is told about a text and its tokenizer.
struct TextArguments {
  std::string tokenizer;  // empty: the input is no text for a tokenizer
  std::string text_key = "text";
  std::optional<bool> append_eod;  // default: where the tokenizer has an end of text
  bool keep_empty = false;
  int64_t workers = 1;
  data::BpeOptions bpe;
};

void add_text_options(CLI::App& command, TextArguments& arguments);

/// Opens the tokenizer of `arguments`.
std::shared_ptr<const data::Vocabulary> open_tokenizer(const TextArguments& arguments);

/// Tokenizes the file `path` into `builder`: a document for each line of .jsonl, else one of the
/// whole text. Shows progress and prints what was read.
void build_from_text(const std::string& path, bool jsonl, const data::Vocabulary& tokenizer,
                     const TextArguments& arguments, data::IndexedDatasetBuilder& builder);

/// Adds `rwkv data tokens`, which shows the tokens of a text.
void add_data_tokens(CLI::App& data_command, int& exit_code);

}  // namespace rwkv::apps
