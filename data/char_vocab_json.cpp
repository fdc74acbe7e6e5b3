// vocab.json: the reading and writing half of CharVocab.

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>
#include <utility>

#include "data/base/error.h"
#include "data/text_dataset.h"

namespace rwkv::data {
namespace {

[[noreturn]] void refuse(std::string_view place, std::string_view reason) {
  user_error(
      "{}: {}; expected one object {{\"0\": \"c\", \"1\": \"d\", ...}} with one character each",
      place, reason);
}

/// The only character of `text` (well-formed UTF-8), or nothing when there is not exactly one.
std::optional<char32_t> single_character(std::string_view text) {
  const auto bytes = std::as_bytes(std::span(text.data(), text.size()));
  if (bytes.empty() || utf8_boundary(bytes, 1) != std::ssize(bytes)) return std::nullopt;
  // Not next_character(): a carriage return is a character here.
  auto value = static_cast<char32_t>(bytes[0]);
  if (bytes.size() > 1) value &= 0x7FU >> bytes.size();
  for (const std::byte byte : bytes.subspan(1)) {
    value = (value << 6) | (static_cast<char32_t>(byte) & 0x3F);
  }
  return value;
}

/// Takes what the parser reports without building a tree, so that depth and duplicates cannot hurt.
class VocabSax : public nlohmann::json_sax<nlohmann::json> {
 public:
  explicit VocabSax(std::string_view place) : place_(place) {}

  /// Characters in id order.
  std::vector<char32_t> take() {
    if (entries_.empty()) refuse(place_, "the vocabulary is empty");
    std::ranges::sort(entries_);
    std::vector<char32_t> characters;
    for (const auto& [id, character] : entries_) {
      if (id < characters.size()) refuse(place_, fmt::format("id {} is there twice", id));
      if (id > characters.size())
        refuse(place_, fmt::format("id {} is missing", characters.size()));
      characters.push_back(character);
    }
    std::vector<char32_t> sorted = characters;
    std::ranges::sort(sorted);
    if (const auto twice = std::ranges::adjacent_find(sorted); twice != sorted.end()) {
      refuse(place_,
             fmt::format("the character U+{:04X} has two ids", static_cast<uint32_t>(*twice)));
    }
    return characters;
  }

  bool start_object(size_t /*size*/) override {
    if (depth_++ != 0) refuse(place_, "an object inside the object");
    return true;
  }
  bool key(string_t& text) override {
    const auto* end = text.data() + text.size();
    const auto [stop, error] = std::from_chars(text.data(), end, id_);
    if (error != std::errc{} || stop != end || (text.size() > 1 && text[0] == '0')) {
      refuse(place_, fmt::format("the key '{}' is no id", printable(text, 40)));
    }
    return true;
  }
  bool string(string_t& text) override {
    const auto character = single_character(text);
    if (depth_ != 1 || !character) {
      refuse(place_, fmt::format("entry {} is '{}', not one character", id_, printable(text, 40)));
    }
    entries_.emplace_back(id_, *character);
    return true;
  }
  bool parse_error(size_t position, const std::string& /*token*/,
                   const nlohmann::detail::exception& /*error*/) override {
    refuse(place_, fmt::format("no valid JSON near byte {}", position));
  }

  bool end_object() override { return true; }
  bool start_array(size_t /*size*/) override { return other(); }
  bool end_array() override { return other(); }
  bool null() override { return other(); }
  bool boolean(bool /*value*/) override { return other(); }
  bool number_integer(number_integer_t /*value*/) override { return other(); }
  bool number_unsigned(number_unsigned_t /*value*/) override { return other(); }
  bool number_float(number_float_t /*value*/, const string_t& /*text*/) override { return other(); }
  bool binary(binary_t& /*value*/) override { return other(); }

 private:
  bool other() { refuse(place_, "something that is no string"); }

  std::string_view place_;
  std::vector<std::pair<uint32_t, char32_t>> entries_;
  uint32_t id_ = 0;
  int depth_ = 0;
};

/// UTF-16 with its byte-order mark as UTF-8; other bytes as they are.
std::string json_as_utf8(std::span<const std::byte> json, std::string_view place) {
  const auto begins = [json](int a, int b) {
    return json.size() >= 2 && json[0] == std::byte(a) && json[1] == std::byte(b);
  };
  const bool little = begins(0xFF, 0xFE);
  if (!little && !begins(0xFE, 0xFF)) {
    return {reinterpret_cast<const char*>(json.data()), json.size()};
  }
  std::vector<std::byte> units(json.begin() + 2, json.end());
  if (!little) {
    for (size_t i = 0; i + 1 < units.size(); i += 2) std::swap(units[i], units[i + 1]);
  }
  std::string text;
  for (size_t at = 0; at < units.size();) {
    // Its newline translation is harmless: JSON strings hold no raw control characters.
    append_utf8(text, next_character(units, TextEncoding::kUtf16le, at, place));
  }
  return text;
}

std::string utf16le_with_mark(std::string_view utf8) {
  std::string out;
  const auto put = [&out](char32_t unit) {
    out += static_cast<char>(unit & 0xFF);
    out += static_cast<char>(unit >> 8);
  };
  put(0xFEFF);
  const auto bytes = std::as_bytes(std::span(utf8.data(), utf8.size()));
  for (size_t at = 0; at < bytes.size();) {
    const char32_t character = next_character(bytes, TextEncoding::kUtf8, at, "vocab.json");
    if (character < 0x10000) {
      put(character);
    } else {
      put(0xD800 + ((character - 0x10000) >> 10));
      put(0xDC00 + ((character - 0x10000) & 0x3FF));
    }
  }
  return out;
}

/// One character as Python's json module escapes it.
std::string escaped(char32_t character) {
  switch (character) {
    case U'"':
      return "\\\"";
    case U'\\':
      return "\\\\";
    case U'\n':
      return "\\n";
    case U'\r':
      return "\\r";
    case U'\t':
      return "\\t";
    case U'\b':
      return "\\b";
    case U'\f':
      return "\\f";
    default:
      break;
  }
  if (character < 0x20) return fmt::format("\\u{:04x}", static_cast<uint32_t>(character));
  std::string out;
  append_utf8(out, character);
  return out;
}

}  // namespace

CharVocab CharVocab::parse(std::span<const std::byte> json, std::string_view place) {
  const std::string text = json_as_utf8(json, place);
  VocabSax sax(place);
  nlohmann::json::sax_parse(text, &sax);
  return CharVocab(sax.take());
}

std::string CharVocab::to_json(TextEncoding encoding) const {
  std::string text = "{";
  for (size_t id = 0; id < characters_.size(); ++id) {
    fmt::format_to(std::back_inserter(text), "{}\"{}\": \"{}\"", id == 0 ? "" : ", ", id,
                   escaped(characters_[id]));
  }
  text += '}';
  if (encoding == TextEncoding::kUtf8) return text;
  return utf16le_with_mark(text);
}

}  // namespace rwkv::data
