#include "data/npy.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <charconv>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "data/base/atomic_file.h"
#include "data/base/checked.h"
#include "data/base/error.h"

namespace rwkv::data {
namespace {

constexpr std::string_view kMagic{"\x93NUMPY", 6};
constexpr size_t kAlignment = 64;
/// numpy's own limit for headers it parses; ours never has more than three short fields.
constexpr size_t kMaxHeaderBytes = 10000;

struct TypeName {
  TokenType type;
  std::string_view descr;
};
constexpr std::array kTypeNames{
    TypeName{TokenType::kUint16, "<u2"}, TypeName{TokenType::kInt32, "<i4"},
    TypeName{TokenType::kUint32, "<u4"}, TypeName{TokenType::kInt64, "<i8"},
    TypeName{TokenType::kInt16, "<i2"},  TypeName{TokenType::kUint8, "|u1"},
    TypeName{TokenType::kInt8, "|i1"},
};

struct Header {
  std::optional<std::string> descr;
  std::optional<bool> fortran_order;
  std::optional<std::vector<int64_t>> shape;
};

/// Reads the header, a Python dict literal such as {'descr': '<u2', 'fortran_order': False,
/// 'shape': (7,), }.
class HeaderParser {
 public:
  HeaderParser(std::string_view text, std::string name) : text_(text), name_(std::move(name)) {}

  Header parse() {
    Header header;
    expect('{');
    while (!accept('}')) {
      const std::string key = read_string();
      expect(':');
      if (key == "descr" && !header.descr) {
        header.descr = read_descr();
      } else if (key == "fortran_order" && !header.fortran_order) {
        header.fortran_order = read_bool();
      } else if (key == "shape" && !header.shape) {
        header.shape = read_shape();
      } else {
        fail(fmt::format("unexpected or repeated key '{}'", printable(key, 40)));
      }
      if (!accept(',')) {
        expect('}');
        break;
      }
    }
    skip_space();
    if (at_ != text_.size()) fail("text after the closing brace");
    if (!header.descr || !header.fortran_order || !header.shape) {
      fail("one of descr, fortran_order, shape is missing");
    }
    return header;
  }

 private:
  [[noreturn]] void fail(std::string_view reason) const {
    user_error("{}: .npy header, character {}: {}; save the array again with numpy.save", name_,
               at_, reason);
  }
  void skip_space() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n' || text_[at_] == '\t'))
      ++at_;
  }
  bool accept(char wanted) {
    skip_space();
    if (at_ >= text_.size() || text_[at_] != wanted) return false;
    ++at_;
    return true;
  }
  void expect(char wanted) {
    if (!accept(wanted)) fail(fmt::format("'{}' expected", wanted));
  }
  std::string read_string() {
    const char quote = accept('\'') ? '\'' : '"';
    if (quote == '"') expect('"');
    const size_t end = text_.find(quote, at_);
    if (end == std::string_view::npos) fail("a string does not end");
    std::string out(text_.substr(at_, end - at_));
    at_ = end + 1;
    return out;
  }
  std::string read_descr() {
    skip_space();
    if (at_ < text_.size() && text_[at_] == '[')
      fail("a record array; one column of integers is needed");
    return read_string();
  }
  bool read_bool() {
    skip_space();
    for (const auto& [word, value] :
         {std::pair{std::string_view("False"), false}, {"True", true}}) {
      if (!text_.substr(at_).starts_with(word)) continue;
      at_ += word.size();
      return value;
    }
    fail("True or False expected");
  }
  std::vector<int64_t> read_shape() {
    std::vector<int64_t> shape;
    expect('(');
    while (!accept(')')) {
      skip_space();
      int64_t size = 0;
      const auto [end, error] =
          std::from_chars(text_.data() + at_, text_.data() + text_.size(), size);
      if (error != std::errc{} || size < 0) fail("a size expected, 0 to 2^63 - 1");
      at_ = static_cast<size_t>(end - text_.data());
      shape.push_back(size);
      if (!accept(',')) {
        expect(')');
        break;
      }
    }
    return shape;
  }

  std::string_view text_;
  std::string name_;
  size_t at_ = 0;
};

/// The header text and the position of the data behind it.
struct Preamble {
  std::string_view header;
  size_t data_offset = 0;
};

Preamble read_preamble(std::string_view text, const std::string& name) {
  if (!text.starts_with(kMagic)) {
    user_error(
        "{} does not begin with \\x93NUMPY, so it is no .npy file; save it with numpy.save, or "
        "name "
        "another format",
        name);
  }
  const auto byte = [text](size_t i) { return size_t{static_cast<unsigned char>(text[i])}; };
  if (text.size() < 12) user_error("{} is truncated inside the header; copy it again", name);
  const size_t version = byte(6);
  if (version < 1 || version > 3) {
    user_error("{}: .npy version {}, only 1 to 3 are known; save it with numpy.save", name,
               version);
  }
  const size_t start = version == 1 ? 10 : 12;
  size_t length = byte(8) | byte(9) << 8;
  if (version > 1) length |= byte(10) << 16 | byte(11) << 24;
  if (length > kMaxHeaderBytes) {
    user_error("{}: the .npy header claims {} bytes, more than {}; save it with numpy.save", name,
               length, kMaxHeaderBytes);
  }
  if (length > text.size() - start) {
    user_error("{} is truncated inside the header; copy it again", name);
  }
  return {.header = text.substr(start, length), .data_offset = start + length};
}

TokenType type_of(const Header& header, const std::string& name) {
  for (const TypeName& known : kTypeNames) {
    if (*header.descr == known.descr) return known.type;
  }
  if (header.descr->starts_with('>')) {
    user_error("{}: the array is big endian ('{}'); save it as little endian, e.g. astype('<u2')",
               name, printable(*header.descr, 40));
  }
  user_error("{}: elements of type '{}' are no tokens; use <u2, <i4, <u4, <i8, <i2, |u1 or |i1",
             name, printable(*header.descr, 40));
}

}  // namespace

NpyFile::NpyFile(const std::filesystem::path& path) : file_(path) {
  const std::string name = printable(path.string());
  const auto bytes = file_.bytes();
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  const Preamble preamble = read_preamble(text, name);
  const Header header = HeaderParser(preamble.header, name).parse();
  if (header.shape->size() != 1) {
    // Fortran order means something only in more dimensions, which end here.
    user_error("{}: the array has {} dimensions, tokens are one; save array.reshape(-1)", name,
               header.shape->size());
  }
  type_ = type_of(header, name);
  data_offset_ = static_cast<int64_t>(preamble.data_offset);
  const int64_t has = file_.size_bytes() - data_offset_;
  const auto wanted = checked_mul(header.shape->front(), item_size(type_));
  if (!wanted || *wanted != has) {
    user_error(
        "{}: {} tokens of {} announced, but {} bytes follow the header; was the copy interrupted?",
        name, header.shape->front(), token_type_name(type_), has);
  }
}

namespace {

/// The header of version 1: the data begins at a multiple of 64 bytes.
std::string header_of(std::string_view descr, const std::string& shape) {
  std::string dict =
      fmt::format("{{'descr': '{}', 'fortran_order': False, 'shape': {}, }}", descr, shape);
  // Magic, version and length take ten bytes; the newline ends the padding.
  const size_t unpadded = 10 + dict.size() + 1;
  dict.append((kAlignment - unpadded % kAlignment) % kAlignment, ' ');
  dict += '\n';
  std::string header(kMagic);
  header +=
      std::string{1, 0, static_cast<char>(dict.size() & 0xff), static_cast<char>(dict.size() >> 8)};
  return header + dict;
}

}  // namespace

void write_npy(const std::filesystem::path& path, std::span<const int64_t> tokens, TokenType type) {
  const std::string name = printable(path.string());
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (fits(tokens[i], type)) continue;
    user_error("{}: token {} is {}, which does not fit {}; choose a larger dtype, e.g. i32", name,
               i, tokens[i], token_type_name(type));
  }
  const auto* row = std::ranges::find(kTypeNames, type, &TypeName::type);
  AtomicFile file(path);
  file.write(header_of(row->descr, fmt::format("({},)", tokens.size())));
  std::vector<std::byte> data(tokens.size() * static_cast<size_t>(item_size(type)));
  narrow_tokens(tokens, type, data);
  file.write(data);
  file.commit();
}

void write_npy(const std::filesystem::path& path, std::span<const float> values, int64_t columns) {
  static_assert(std::endian::native == std::endian::little);
  if (columns <= 0 || std::ssize(values) % columns != 0) {
    throw std::logic_error(
        fmt::format("write_npy: {} values in rows of {}", values.size(), columns));
  }
  AtomicFile file(path);
  file.write(header_of("<f4", fmt::format("({}, {})", std::ssize(values) / columns, columns)));
  file.write(std::as_bytes(values));
  file.commit();
}

}  // namespace rwkv::data
