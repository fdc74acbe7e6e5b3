#include "trainer/apps/data_text.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstdio>
#include <string_view>
#include <vector>

#include "data/base/error.h"
#include "data/base/mapped_file.h"
#include "data/base/utf8.h"
#include "data/tokenize_file.h"
#include "trainer/exit_code.h"
#include "trainer/terminal_progress.h"

namespace rwkv::apps {
namespace {

/// A .txt is one document; its sequences have this many tokens, so that memory stays small.
constexpr size_t kSequenceTokens = size_t{1} << 22;

struct TokensArguments {
  TextArguments text;
  std::string file;
  std::optional<std::string> given;
  bool pieces = false;
};

/// A token on one line: control characters and parts of characters are shown, not written.
std::string shown_piece(const std::string& bytes) {
  if (find_ill_formed_utf8(bytes) == std::string::npos) return printable(bytes, bytes.size());
  std::string out;
  for (const char c : bytes) out += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
  return out;
}

int show_tokens(const TokensArguments& arguments) {
  if (arguments.given.has_value() == !arguments.file.empty()) {
    user_error("data tokens: name a file or give a text with --text, one of both");
  }
  const auto vocabulary = open_tokenizer(arguments.text);
  std::string text = arguments.given.value_or("");
  if (!arguments.file.empty()) {
    const MappedFile file(arguments.file);
    text.assign(reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size());
  }
  std::vector<int64_t> ids;
  try {
    ids = vocabulary->encode(text);
  } catch (const data::EncodingError& error) {
    user_error("{}: byte {}: {}", arguments.given ? "--text" : printable(arguments.file),
               error.byte(), error.reason());
  }
  if (!arguments.pieces) {
    fmt::print("[{}]\n", fmt::join(ids, ", "));
    return trainer::kFinished;
  }
  for (const int64_t id : ids) {
    fmt::print("{}\t{}\n", id, shown_piece(vocabulary->decode(std::span(&id, 1))));
  }
  return trainer::kFinished;
}

void add_tokenizer_options(CLI::App& command, TextArguments& arguments) {
  command.add_flag("--special-as-text", arguments.bpe.special_as_text,
                   "tokenizer.json: <|endoftext|> and the like in the text are plain text");
  command.add_flag("--replace-invalid", arguments.bpe.replace_ill_formed,
                   "tokenizer.json: ill-formed UTF-8 becomes U+FFFD");
}

}  // namespace

void add_text_options(CLI::App& command, TextArguments& arguments) {
  command.add_option(
      "--tokenizer", arguments.tokenizer,
      "Read .txt or .jsonl with this tokenizer.json, World vocabulary or vocab.json, or as bytes");
  command.add_option("--text-key", arguments.text_key, "jsonl: where the text is in each line")
      ->capture_default_str();
  command.add_flag("--append-eod,!--no-append-eod", arguments.append_eod,
                   "End each document with the tokenizer's end of text (default where it has one)");
  command.add_flag("--keep-empty", arguments.keep_empty, "jsonl: keep documents without text");
  command.add_option("--workers", arguments.workers, "jsonl: threads that encode")
      ->check(CLI::Range(1, 256))
      ->capture_default_str();
  add_tokenizer_options(command, arguments);
}

std::shared_ptr<const data::Vocabulary> open_tokenizer(const TextArguments& arguments) {
  return data::open_vocabulary(arguments.tokenizer, arguments.bpe);
}

void build_from_text(const std::string& path, bool jsonl, const data::Vocabulary& tokenizer,
                     const TextArguments& arguments, data::IndexedDatasetBuilder& builder) {
  data::TokenizeOptions options;
  options.jsonl = jsonl;
  options.text_key = arguments.text_key;
  options.keep_empty = arguments.keep_empty;
  options.workers = arguments.workers;
  options.append_eod = arguments.append_eod.value_or(tokenizer.end_of_text().has_value());
  if (options.append_eod && !tokenizer.end_of_text()) {
    user_error("--append-eod: {} has no token for the end of a text; use --no-append-eod",
               printable(arguments.tokenizer));
  }
  std::vector<int64_t> sequence;
  const data::TokenSink sink{
      .tokens =
          [&](std::span<const int64_t> ids) {
            sequence.insert(sequence.end(), ids.begin(), ids.end());
            if (jsonl || sequence.size() < kSequenceTokens) return;
            builder.add_sequence(sequence);
            sequence.clear();
          },
      .end_document =
          [&] {
            if (jsonl || !sequence.empty()) builder.add_sequence(sequence);
            sequence.clear();
            builder.end_document();
          },
  };
  const auto counts = data::tokenize_file(
      MappedFile(path), tokenizer, options, sink,
      [](int64_t done, int64_t all) { trainer::show_bytes("tokenizing", done, all); });
  fmt::print("documents: {}\n", counts.documents);
  if (counts.empty > 0) fmt::print("documents without text, left out: {}\n", counts.empty);
}

void add_data_tokens(CLI::App& data_command, int& exit_code) {
  auto* command = data_command.add_subcommand("tokens", "Show the tokens of a text as a JSON list");
  auto arguments = std::make_shared<TokensArguments>();
  command->add_option("file", arguments->file, "Text file");
  command->add_option("--text", arguments->given, "Text instead of a file");
  command
      ->add_option("--tokenizer", arguments->text.tokenizer,
                   "tokenizer.json, World vocabulary, vocab.json, or bytes")
      ->required();
  command->add_flag("--pieces", arguments->pieces, "One token a line: id, tab, its text");
  add_tokenizer_options(*command, arguments->text);
  command->callback([arguments, &exit_code] { exit_code = show_tokens(*arguments); });
}

}  // namespace rwkv::apps
