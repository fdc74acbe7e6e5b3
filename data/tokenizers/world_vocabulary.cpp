// The World vocabulary's text format: a strict parser of the Python literals that it consists of.

#include <fmt/format.h>

#include <charconv>
#include <optional>
#include <unordered_map>

#include "data/base/error.h"
#include "data/base/utf8.h"
#include "data/text_dataset.h"
#include "data/tokenizers/world_tokenizer.h"

namespace rwkv::data {
namespace {

/// Model vocabularies have some ten thousand tokens; this keeps ids far inside 32 bits.
constexpr size_t kMaxTokens = 1'000'000;
constexpr size_t kMaxTokenBytes = 4096;

class LineParser {
 public:
  LineParser(std::string_view line, std::string_view place, size_t number)
      : line_(line), place_(place), number_(number) {}

  struct Entry {
    size_t id;
    std::string bytes;
  };
  Entry parse() {
    const size_t first = line_.find(' ');
    const size_t last = line_.rfind(' ');
    if (first == std::string_view::npos || first == last) refuse("there are no three fields");
    const size_t id = number(line_.substr(0, first), "id");
    const size_t length = number(line_.substr(last + 1), "length");
    std::string bytes = literal(line_.substr(first + 1, last - first - 1));
    if (bytes.empty()) refuse("the token is empty");
    if (bytes.size() != length) {
      refuse("the token has {} bytes, the line says {}", bytes.size(), length);
    }
    if (bytes.size() > kMaxTokenBytes) refuse("the token is longer than {} bytes", kMaxTokenBytes);
    return {id, std::move(bytes)};
  }

  template <typename... Args>
  [[noreturn]] void refuse(fmt::format_string<Args...> format, Args&&... args) const {
    user_error("{}: line {}: {}; expected ID LITERAL LENGTH as in rwkv_vocab_v20230424.txt", place_,
               number_, fmt::format(format, std::forward<Args>(args)...));
  }

 private:
  size_t number(std::string_view digits, std::string_view what) const {
    size_t value = 0;
    const auto* end = digits.data() + digits.size();
    const auto [stop, error] = std::from_chars(digits.data(), end, value);
    const bool leading_zero = digits.size() > 1 && digits[0] == '0';
    if (digits.empty() || error != std::errc{} || stop != end || leading_zero) {
      refuse("the {} '{}' is no whole number", what, printable(digits, 40));
    }
    return value;
  }

  /// The bytes of '...', "...", b'...' or b"...".
  std::string literal(std::string_view text) const {
    const bool is_bytes = text.starts_with('b');
    if (is_bytes) text.remove_prefix(1);
    const bool quoted =
        text.size() >= 2 && (text[0] == '\'' || text[0] == '"') && text.back() == text[0];
    if (!quoted) refuse("'{}' is no quoted literal", printable(text, 40));
    const char quote = text[0];
    text = text.substr(1, text.size() - 2);
    std::string bytes;
    for (size_t at = 0; at < text.size();) {
      if (text[at] == quote) refuse("a quotation mark inside the literal has no backslash");
      if (text[at] == '\\') {
        append_escape(text, at, is_bytes, bytes);
        continue;
      }
      const Utf8Part part = utf8_part(text, at);
      if (!part.well_formed) refuse("byte {} of the literal is no UTF-8", at);
      if (is_bytes && part.length > 1) refuse("a bytes literal holds a character outside ASCII");
      bytes += text.substr(at, part.length);
      at += part.length;
    }
    return bytes;
  }

  /// Reads the escape at `at`, where a backslash stands, and moves `at` behind it.
  void append_escape(std::string_view text, size_t& at, bool is_bytes, std::string& out) const {
    const char kind = at + 1 < text.size() ? text[at + 1] : '\0';
    at += 2;
    switch (kind) {
      case '\\':
      case '\'':
      case '"':
        out += kind;
        return;
      case 'n':
        out += '\n';
        return;
      case 'r':
        out += '\r';
        return;
      case 't':
        out += '\t';
        return;
      case 'x': {
        const char32_t value = hex(text, at, 2);
        // In text \xNN is the character U+00NN, of two bytes from 80 on; in bytes it is the byte.
        if (is_bytes) {
          out += static_cast<char>(value);
        } else {
          append_utf8(out, value);
        }
        return;
      }
      case 'u':
      case 'U': {
        if (is_bytes) break;
        const char32_t value = hex(text, at, kind == 'u' ? 4 : 8);
        if (value > 0x10FFFF || (value >= 0xD800 && value <= 0xDFFF)) {
          refuse("U+{:04X} is no character", static_cast<uint32_t>(value));
        }
        append_utf8(out, value);
        return;
      }
      default:
        break;
    }
    refuse("the escape '\\{}' is not known here", printable(std::string_view(&kind, 1)));
  }

  char32_t hex(std::string_view text, size_t& at, size_t digits) const {
    const std::string_view part = text.substr(std::min(at, text.size()), digits);
    uint32_t value = 0;
    const auto* end = part.data() + part.size();
    const auto [stop, error] = std::from_chars(part.data(), end, value, 16);
    if (part.size() != digits || error != std::errc{} || stop != end) {
      refuse("'{}' are not {} hexadecimal digits", printable(part, 40), digits);
    }
    at += digits;
    return value;
  }

  std::string_view line_;
  std::string_view place_;
  size_t number_;
};

void check_single_bytes(const std::unordered_map<std::string_view, size_t>& lines,
                        std::string_view place) {
  for (int byte = 0; byte < 256; ++byte) {
    const char single = static_cast<char>(byte);
    if (lines.contains(std::string_view(&single, 1))) continue;
    user_error(
        "{}: no token is the single byte 0x{:02x}, so some texts would have no ids; get the file "
        "again",
        place, byte);
  }
}

}  // namespace

std::vector<std::string> parse_world_vocabulary(std::string_view text, std::string_view place) {
  std::vector<std::string> tokens(1);
  size_t number = 0;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    std::string_view line = text.substr(at, end - at);
    at = end + 1;
    ++number;
    if (line.ends_with('\r')) line.remove_suffix(1);  // copies with CRLF exist
    const LineParser parser(line, place, number);
    LineParser::Entry entry = LineParser(parser).parse();
    if (entry.id != tokens.size()) {
      parser.refuse("id {} stands where {} should; ids run from 1 without a gap", entry.id,
                    tokens.size());
    }
    if (tokens.size() > kMaxTokens) parser.refuse("there are more than {} tokens", kMaxTokens);
    tokens.push_back(std::move(entry.bytes));
  }
  std::unordered_map<std::string_view, size_t> ids;
  for (size_t id = 1; id < tokens.size(); ++id) {
    const auto [first, is_new] = ids.emplace(tokens[id], id);
    if (!is_new) {
      user_error("{}: ids {} and {} are the same token '{}'; get the file again", place,
                 first->second, id, printable(tokens[id], 40));
    }
  }
  check_single_bytes(ids, place);
  return tokens;
}

}  // namespace rwkv::data
