#pragma once

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "data/text_dataset.h"

namespace rwkv::testing {

/// A line of a World vocabulary with all bytes written as \xNN.
inline std::string world_line(size_t id, std::string_view bytes) {
  std::string line = fmt::format("{} b'", id);
  for (const char c : bytes) line += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
  return line + fmt::format("' {}\n", bytes.size());
}

/// A World vocabulary: the 256 bytes with ids 1..256, then `tokens`.
inline std::string small_world(const std::vector<std::string>& tokens) {
  std::string text;
  for (size_t byte = 0; byte < 256; ++byte) {
    text += world_line(byte + 1, std::string(1, static_cast<char>(byte)));
  }
  for (size_t i = 0; i < tokens.size(); ++i) text += world_line(257 + i, tokens[i]);
  return text;
}

/// How a tokenizer.json writes `bytes`: printable ones as themselves, others as U+0100 and on.
inline std::string in_gpt2_alphabet(std::string_view bytes) {
  std::vector<char32_t> alphabet(256);
  char32_t next = 0x100;
  for (char32_t byte = 0; byte < 256; ++byte) {
    const bool itself = (byte > 32 && byte < 127) || (byte > 160 && byte != 173);
    alphabet[byte] = itself ? byte : next++;
  }
  std::string out;
  for (const char c : bytes) data::append_utf8(out, alphabet[static_cast<unsigned char>(c)]);
  return out;
}

/// A tokenizer.json like that of 20B: <|endoftext|> is 0, bytes are 1..256, then come the results
/// of `merges` (pairs of bytes, in order of rank), then runs of 3 and 2 spaces.
inline nlohmann::json small_bpe(const std::vector<std::pair<std::string, std::string>>& merges) {
  using nlohmann::json;
  json vocab{{"<|endoftext|>", 0}};
  const auto add = [&vocab](const std::string& token) {
    const size_t next = vocab.size();
    if (!vocab.contains(token)) vocab[token] = next;
  };
  for (int byte = 0; byte < 256; ++byte)
    add(in_gpt2_alphabet(std::string(1, static_cast<char>(byte))));
  json list = json::array();
  for (const auto& [left, right] : merges) {
    list.push_back(in_gpt2_alphabet(left) + " " + in_gpt2_alphabet(right));
    add(in_gpt2_alphabet(left + right));
  }
  const auto added = [](size_t id, const std::string& content, bool special) {
    return json{
        {"id", id},        {"content", content}, {"special", special},    {"single_word", false},
        {"lstrip", false}, {"rstrip", false},    {"normalized", !special}};
  };
  const size_t end = vocab.size();
  const json byte_level{{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}};
  return {
      {"version", "1.0"},
      {"truncation", nullptr},
      {"padding", nullptr},
      {"added_tokens",
       {added(0, "<|endoftext|>", true), added(end, "   ", false), added(end + 1, "  ", false)}},
      {"normalizer", {{"type", "NFC"}}},
      {"pre_tokenizer", byte_level},
      {"post_processor", byte_level},
      {"decoder", byte_level},
      {"model",
       {{"type", "BPE"},
        {"dropout", nullptr},
        {"unk_token", nullptr},
        {"fuse_unk", false},
        {"continuing_subword_prefix", nullptr},
        {"end_of_word_suffix", nullptr},
        {"vocab", vocab},
        {"merges", list}}}};
}

}  // namespace rwkv::testing
