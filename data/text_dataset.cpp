#include "data/text_dataset.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <stdexcept>

#include "data/base/atomic_file.h"
#include "data/base/error.h"
#include "data/base/mapped_file.h"

namespace rwkv::data {
namespace {

constexpr char32_t kCodePoints = 0x110000;

bool is_continuation(std::byte byte) { return (byte & std::byte{0xC0}) == std::byte{0x80}; }
bool is_surrogate(char32_t value) { return value >= 0xD800 && value <= 0xDFFF; }

char32_t decode_utf8(std::span<const std::byte> bytes, size_t& at, std::string_view place) {
  const auto first = static_cast<char32_t>(bytes[at]);
  if (first < 0x80) {
    ++at;
    return first;
  }
  const auto refuse = [&](std::string_view reason) {
    user_error("{}: byte {} (0x{:02x}): {}; convert the text to UTF-8, or read it as bytes", place,
               at, static_cast<unsigned>(first), reason);
  };
  if (first < 0xC2 || first > 0xF4) refuse("no UTF-8 character begins like this");
  const size_t length = first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
  if (bytes.size() - at < length) refuse("the text ends inside a UTF-8 character");
  char32_t value = first & (0x7FU >> length);
  for (size_t i = 1; i < length; ++i) {
    if (!is_continuation(bytes[at + i])) refuse("this UTF-8 character is cut short");
    value = (value << 6) | (static_cast<char32_t>(bytes[at + i]) & 0x3F);
  }
  // With the shortest form enforced each text has one encoding only, so decode(encode(x)) == x.
  if (value < (length == 3 ? 0x800U : length == 4 ? 0x10000U : 0x80U))
    refuse("overlong UTF-8 form");
  if (is_surrogate(value)) refuse("a surrogate is no character");
  if (value >= kCodePoints) refuse("beyond U+10FFFF");
  at += length;
  return value;
}

char32_t decode_utf16le(std::span<const std::byte> bytes, size_t& at, std::string_view place) {
  const auto refuse = [&](std::string_view reason) {
    user_error("{}: byte {}: {}; is the text really UTF-16? convert it to UTF-8", place, at,
               reason);
  };
  const auto unit = [&](size_t i) {
    return static_cast<char32_t>(bytes[i]) | static_cast<char32_t>(bytes[i + 1]) << 8;
  };
  if (bytes.size() - at < 2) refuse("the text ends inside a UTF-16 unit");
  const char32_t first = unit(at);
  if (!is_surrogate(first)) {
    at += 2;
    return first;
  }
  if (first >= 0xDC00) refuse("a low surrogate without a high one");
  const char32_t second = bytes.size() - at < 4 ? 0 : unit(at + 2);
  if (second < 0xDC00 || second > 0xDFFF) refuse("a high surrogate without a low one");
  at += 4;
  return 0x10000 + ((first - 0xD800) << 10 | (second - 0xDC00));
}

/// `character` as U+XXXX, for messages.
std::string code_point(char32_t character) {
  return fmt::format("U+{:04X}", static_cast<uint32_t>(character));
}

std::span<const std::byte> as_bytes(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

template <typename Id>
std::vector<Id> encode_text(std::span<const std::byte> bytes, TextEncoding encoding,
                            const CharVocab& vocab, std::string_view place) {
  std::vector<Id> ids;
  ids.reserve(encoding == TextEncoding::kUtf8 ? bytes.size() : bytes.size() / 2);
  for (size_t at = 0; at < bytes.size();) {
    const size_t begin = at;
    const char32_t character = next_character(bytes, encoding, at, place);
    const auto id = vocab.id_of(character);
    if (!id) {
      user_error(
          "{}: byte {}: {} is not in the vocabulary; use the vocabulary file that was made with "
          "this text, or none",
          place, begin, code_point(character));
    }
    ids.push_back(static_cast<Id>(*id));
  }
  return ids;
}

}  // namespace

char32_t next_character(std::span<const std::byte> bytes, TextEncoding encoding, size_t& at,
                        std::string_view place) {
  const auto decode = [&](size_t& position) {
    return encoding == TextEncoding::kUtf8 ? decode_utf8(bytes, position, place)
                                           : decode_utf16le(bytes, position, place);
  };
  const char32_t character = decode(at);
  if (character != U'\r') return character;
  if (at < bytes.size()) {
    size_t next = at;
    if (decode(next) == U'\n') at = next;
  }
  return U'\n';
}

void append_utf8(std::string& out, char32_t c) {
  const auto put = [&out](char32_t byte) { out += static_cast<char>(byte); };
  if (c < 0x80) {
    put(c);
  } else if (c < 0x800) {
    put(0xC0 | c >> 6);
    put(0x80 | (c & 0x3F));
  } else if (c < 0x10000) {
    put(0xE0 | c >> 12);
    put(0x80 | (c >> 6 & 0x3F));
    put(0x80 | (c & 0x3F));
  } else {
    put(0xF0 | c >> 18);
    put(0x80 | (c >> 12 & 0x3F));
    put(0x80 | (c >> 6 & 0x3F));
    put(0x80 | (c & 0x3F));
  }
}

int64_t utf8_boundary(std::span<const std::byte> bytes, int64_t at) {
  if (at < 0) throw std::logic_error(fmt::format("utf8_boundary: byte {}", at));
  at = std::min(at, std::ssize(bytes));
  while (at < std::ssize(bytes) && is_continuation(bytes[static_cast<size_t>(at)])) ++at;
  return at;
}

int64_t characters_before(std::span<const std::byte> bytes, TextEncoding encoding, int64_t at,
                          std::string_view place) {
  int64_t count = 0;
  const int64_t end = std::min(at, std::ssize(bytes));
  for (size_t position = 0; static_cast<int64_t>(position) < end; ++count) {
    next_character(bytes, encoding, position, place);
  }
  return count;
}

CharVocab::CharVocab(std::vector<char32_t> characters) : characters_(std::move(characters)) {
  const char32_t last = *std::ranges::max_element(characters_);
  ids_.assign(static_cast<size_t>(last) + 1, -1);
  for (size_t id = 0; id < characters_.size(); ++id)
    ids_[characters_[id]] = static_cast<int32_t>(id);
}

CharVocab CharVocab::from_text(std::span<const std::byte> bytes, TextEncoding encoding,
                               std::string_view place) {
  if (bytes.empty()) user_error("{}: the text is empty; name a file with content", place);
  std::vector<bool> seen(kCodePoints, false);
  for (size_t at = 0; at < bytes.size();) seen[next_character(bytes, encoding, at, place)] = true;
  std::vector<char32_t> characters;
  for (char32_t c = 0; c < kCodePoints; ++c) {
    if (seen[c]) characters.push_back(c);
  }
  return CharVocab(std::move(characters));
}

std::optional<int64_t> CharVocab::id_of(char32_t character) const {
  if (character >= ids_.size() || ids_[character] < 0) return std::nullopt;
  return ids_[character];
}

std::vector<int64_t> CharVocab::encode(std::string_view text,
                                       std::optional<char32_t> unknown) const {
  std::optional<int64_t> fallback;
  if (unknown) {
    fallback = id_of(*unknown);
    if (!fallback) {
      user_error(
          "the character for unknown ones, {}, is itself not in the vocabulary of {}; choose one "
          "that is",
          code_point(*unknown), size());
    }
  }
  std::vector<int64_t> ids;
  ids.reserve(text.size());
  const auto bytes = as_bytes(text);
  for (size_t at = 0; at < bytes.size();) {
    const size_t begin = at;
    const char32_t character = decode_utf8(bytes, at, "text");
    const auto id = id_of(character);
    if (!id && !fallback) {
      user_error(
          "text: byte {}: {} is not in the vocabulary of {}; leave it out, or name a character for "
          "unknown ones",
          begin, code_point(character), size());
    }
    ids.push_back(id ? *id : *fallback);
  }
  return ids;
}

std::string CharVocab::decode(std::span<const int64_t> ids) const {
  std::string text;
  for (const int64_t id : ids) {
    if (id < 0 || id >= size()) {
      user_error(
          "id {} is outside the vocabulary of {} characters; is it the vocabulary of this model?",
          id, size());
    }
    append_utf8(text, characters_[static_cast<size_t>(id)]);
  }
  return text;
}

CharVocab CharVocab::load(const std::filesystem::path& path) {
  const MappedFile file(path);
  return parse(file.bytes(), printable(path.string()));
}

void CharVocab::save(const std::filesystem::path& path, TextEncoding encoding) const {
  write_file_atomically(path, to_json(encoding));
}

CharTokens::CharTokens(std::span<const std::byte> bytes, TextEncoding encoding,
                       const CharVocab& vocab, std::string_view place) {
  if (vocab.size() <= int64_t{std::numeric_limits<uint16_t>::max()} + 1) {
    ids_ = encode_text<uint16_t>(bytes, encoding, vocab, place);
  } else {
    ids_ = encode_text<uint32_t>(bytes, encoding, vocab, place);
  }
}

TokenView CharTokens::view() const {
  if (const auto* narrow = std::get_if<std::vector<uint16_t>>(&ids_)) {
    return {std::as_bytes(std::span(*narrow)), TokenType::kUint16};
  }
  return {std::as_bytes(std::span(std::get<std::vector<uint32_t>>(ids_))), TokenType::kUint32};
}

std::string dummy_text(int64_t terms) {
  constexpr int64_t kModulus = 10000;
  std::string text;
  for (int64_t i = 0; i < terms; ++i) {
    const int64_t a = i % kModulus;
    const int64_t b = a * a % kModulus;
    fmt::format_to(std::back_inserter(text), ".{}+{}={}.", a, b, a + b);
  }
  return text;
}

}  // namespace rwkv::data
