#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "data/base/error.h"
#include "data/indexed_dataset.h"
#include "data/indexed_dataset_builder.h"
#include "data/npy.h"
#include "data/sampler.h"
#include "data/text_dataset.h"
#include "data/token_source.h"
#include "trainer/apps/commands.h"
#include "trainer/apps/data_text.h"
#include "trainer/exit_code.h"

namespace rwkv::apps {
namespace {

namespace fs = std::filesystem;

struct Arguments {
  std::string path;
  std::string out;
  std::string kind = "auto";
  std::string dtype;
  std::string vocab;
  std::string out_dtype = "auto";
  int64_t vocab_size = 0;
  std::vector<int64_t> ctx_lens{1024};
  bool force = false;
  TextArguments text;
};

std::unique_ptr<data::TokenSource> open(const Arguments& a) {
  return data::open_tokens({.path = a.path,
                            .kind = data::parse_source_kind(a.kind, "--kind"),
                            .dtype = a.dtype,
                            .vocab_file = a.vocab});
}

void check_ctx_lens(const std::vector<int64_t>& ctx_lens) {
  for (const int64_t ctx_len : ctx_lens) {
    if (ctx_len < 1) user_error("--ctx-len: {} is no length; use 1 or more", ctx_len);
  }
}

/// A prime for each context length, with which the cubic sampler visits every window once.
void print_magic_primes(int64_t tokens, const std::vector<int64_t>& ctx_lens) {
  for (const int64_t ctx_len : ctx_lens) {
    const int64_t prime = data::largest_magic_prime(tokens, ctx_len);
    if (prime == 0) {
      fmt::print("magic_prime for ctx_len {}: none, the text is too short\n", ctx_len);
    } else {
      fmt::print("magic_prime for ctx_len {}: {}\n", ctx_len, prime);
    }
  }
}

/// Everything a header does not show: returns how much is wrong.
size_t check_indexed(const Arguments& arguments) {
  const data::IndexedDataset set(arguments.path);
  fmt::print("sequences: {}\ndocuments: {}\n", set.sequences(), set.documents());
  const auto problems = set.check(arguments.vocab_size);
  for (const std::string& problem : problems) fmt::print("damage: {}\n", problem);
  return problems.size();
}

int info(const Arguments& arguments) {
  const auto source = open(arguments);
  fmt::print("file: {}\ntokens: {}\n", source->name(), source->size());
  if (source->vocab_size() > 0) fmt::print("vocab_size: {}\n", source->vocab_size());
  fmt::print("fingerprint: {}\n", source->fingerprint());
  print_magic_primes(source->size(), arguments.ctx_lens);
  const fs::path idx = data::indexed_paths(arguments.path).idx;
  const bool indexed = arguments.kind == "binidx" || (arguments.kind == "auto" && fs::exists(idx));
  if (indexed && check_indexed(arguments) > 0) {
    user_error("{} is damaged as listed above; copy it again or rebuild it with 'rwkv data build'",
               printable(arguments.path));
  }
  if (!indexed && arguments.vocab_size > 0) {
    constexpr int64_t kChunk = 1 << 16;
    std::vector<int64_t> ids(kChunk);
    for (int64_t at = 0; at < source->size(); at += kChunk) {
      const auto chunk =
          std::span(ids).first(static_cast<size_t>(std::min(kChunk, source->size() - at)));
      source->read(at, chunk);
      const auto bad = std::find_if(chunk.begin(), chunk.end(), [&](int64_t id) {
        return id < 0 || id >= arguments.vocab_size;
      });
      if (bad != chunk.end()) {
        user_error("{}: token {} is {}, outside 0..{}; use the tokenizer's vocab_size",
                   source->name(), at + (bad - chunk.begin()), *bad, arguments.vocab_size - 1);
      }
    }
  }
  return trainer::kFinished;
}

/// u16 where every id fits, as the original writers choose it; else i32. `found`: 0 = unknown.
data::TokenType output_type(const Arguments& arguments, int64_t found) {
  if (arguments.out_dtype == "u16") return data::TokenType::kUint16;
  if (arguments.out_dtype == "i32") return data::TokenType::kInt32;
  const int64_t vocab_size = arguments.vocab_size > 0 ? arguments.vocab_size : found;
  constexpr int64_t kSmall = 65500;
  return vocab_size > 0 && vocab_size < kSmall ? data::TokenType::kUint16 : data::TokenType::kInt32;
}

void refuse_overwrite(const Arguments& arguments) {
  const data::IndexedPaths out = data::indexed_paths(arguments.out);
  for (const fs::path& path : {out.bin, out.idx}) {
    if (!fs::exists(path)) continue;
    std::error_code failed;
    if (fs::equivalent(path, arguments.path, failed)) {
      user_error("--out: {} is the input; choose another name", printable(path.string()));
    }
    if (!arguments.force) {
      user_error("--out: {} exists; choose another name or overwrite it with --force",
                 printable(path.string()));
    }
  }
}

/// Whether the input is .jsonl; refuses what no tokenizer reads.
bool is_jsonl(const Arguments& arguments) {
  if (arguments.kind == "auto") return fs::path(arguments.path).extension() == ".jsonl";
  if (arguments.kind == "text" || arguments.kind == "jsonl") return arguments.kind == "jsonl";
  user_error("--kind: {} is not read with a tokenizer; use text or jsonl, or leave out --tokenizer",
             printable(arguments.kind));
}

int build_with_tokenizer(const Arguments& arguments) {
  const bool jsonl = is_jsonl(arguments);
  const auto tokenizer = open_tokenizer(arguments.text);
  data::IndexedDatasetBuilder builder(arguments.out, output_type(arguments, tokenizer->size()));
  build_from_text(arguments.path, jsonl, *tokenizer, arguments.text, builder);
  builder.finish();
  fmt::print("wrote {} and .idx: {} tokens\n",
             printable(data::indexed_paths(arguments.out).bin.string()), builder.tokens());
  // Embeddings are padded to a multiple of 128 by custom (50304 for 20B, 65536 for World).
  fmt::print("vocab_size: {}, padded {}\n", tokenizer->size(),
             (tokenizer->size() + 127) / 128 * 128);
  print_magic_primes(builder.tokens(), arguments.ctx_lens);
  return trainer::kFinished;
}

int build(const Arguments& arguments) {
  check_ctx_lens(arguments.ctx_lens);
  if (arguments.out.empty())
    user_error("--out: the name is empty; give a prefix for .bin and .idx");
  refuse_overwrite(arguments);
  if (!arguments.text.tokenizer.empty()) return build_with_tokenizer(arguments);
  const auto source = open(arguments);
  data::IndexedDatasetBuilder builder(arguments.out, output_type(arguments, source->vocab_size()));
  // A token stream without documents becomes one, in pieces that fit memory; training reads across
  // them.
  constexpr int64_t kSequence = int64_t{1} << 26;
  std::vector<int64_t> ids;
  for (int64_t at = 0; at < source->size(); at += kSequence) {
    ids.resize(static_cast<size_t>(std::min(kSequence, source->size() - at)));
    source->read(at, ids);
    builder.add_sequence(ids);
    if (source->size() > kSequence) {
      fmt::print(stderr, "{} of {} tokens\n", at + std::ssize(ids), source->size());
    }
  }
  builder.end_document();
  builder.finish();
  if (const data::CharVocab* characters = source->vocab(); characters != nullptr) {
    const fs::path file = data::indexed_paths(arguments.out).bin.parent_path() / "vocab.json";
    if (arguments.vocab.empty()) {
      characters->save(file, data::TextEncoding::kUtf8);
      fmt::print("wrote {}\n", printable(file.string()));
    }
  }
  const data::IndexedPaths out = data::indexed_paths(arguments.out);
  fmt::print("wrote {} and .idx: {} tokens\n", printable(out.bin.string()), source->size());
  if (source->vocab_size() > 0) fmt::print("vocab_size: {}\n", source->vocab_size());
  print_magic_primes(source->size(), arguments.ctx_lens);
  return trainer::kFinished;
}

void add_source_options(CLI::App& command, Arguments& arguments) {
  command
      .add_option("--kind", arguments.kind,
                  "auto (by name), bytes, characters, utf16le, binidx, npy, raw (with --dtype); "
                  "text or jsonl (with --tokenizer)")
      ->capture_default_str();
  command.add_option("--dtype", arguments.dtype, "Type of raw tokens: u8, u16, i32, ...");
  command.add_option("--vocab", arguments.vocab, "vocab.json to read characters with");
  command.add_option("--vocab-size", arguments.vocab_size,
                     "Number of tokens; ids beyond it are damage");
  command
      .add_option("--ctx-len", arguments.ctx_lens,
                  "Print the magic prime for these context lengths")
      ->capture_default_str();
}

}  // namespace

void add_data(CLI::App& program, int& exit_code) {
  auto* command = program.add_subcommand("data", "Make and inspect files of tokens");
  command->require_subcommand(1);
  auto arguments = std::make_shared<Arguments>();

  auto* inspect = command->add_subcommand("info", "Show and check a file of tokens or text");
  inspect->add_option("path", arguments->path, "File, or the common name of .bin and .idx")
      ->required();
  add_source_options(*inspect, *arguments);
  inspect->callback([arguments, &exit_code] { exit_code = info(*arguments); });

  auto* make = command->add_subcommand("build", "Write text or tokens as a .bin/.idx pair");
  make->add_option("path", arguments->path, "Text or token file")->required();
  make->add_option("--out", arguments->out, "Common name of the .bin and .idx to write")
      ->required();
  add_source_options(*make, *arguments);
  add_text_options(*make, arguments->text);
  make->add_option("--out-dtype", arguments->out_dtype, "Type to store: auto, u16 or i32")
      ->check(CLI::IsMember({"auto", "u16", "i32"}))
      ->capture_default_str();
  make->add_flag("--force", arguments->force, "Overwrite an existing pair");
  make->callback([arguments, &exit_code] { exit_code = build(*arguments); });
  add_data_tokens(*command, exit_code);
}

}  // namespace rwkv::apps
