#include "data/token_type.h"

#include <fmt/format.h>

#include <array>
#include <bit>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>

#include "data/base/error.h"

namespace rwkv::data {
namespace {

static_assert(std::endian::native == std::endian::little, "token files are read in native order");

struct Row {
  TokenType type;
  std::string_view name;
  std::string_view long_name;
};
constexpr std::array kTypes{
    Row{TokenType::kUint16, "u16", "uint16"}, Row{TokenType::kInt32, "i32", "int32"},
    Row{TokenType::kUint8, "u8", "uint8"},    Row{TokenType::kInt8, "i8", "int8"},
    Row{TokenType::kInt16, "i16", "int16"},   Row{TokenType::kUint32, "u32", "uint32"},
    Row{TokenType::kInt64, "i64", "int64"},
};

/// Calls `function` with a value of the C++ type that stores `type`.
template <typename Function>
auto dispatch(TokenType type, Function&& function) {
  switch (type) {
    case TokenType::kUint8:
      return function(uint8_t{});
    case TokenType::kInt8:
      return function(int8_t{});
    case TokenType::kInt16:
      return function(int16_t{});
    case TokenType::kInt32:
      return function(int32_t{});
    case TokenType::kInt64:
      return function(int64_t{});
    case TokenType::kUint16:
      return function(uint16_t{});
    case TokenType::kUint32:
      return function(uint32_t{});
  }
  throw std::logic_error(fmt::format("no token type has the value {}", static_cast<int>(type)));
}

}  // namespace

int64_t item_size(TokenType type) {
  return dispatch(type, [](auto value) { return static_cast<int64_t>(sizeof(value)); });
}

std::string_view token_type_name(TokenType type) {
  for (const Row& row : kTypes) {
    if (row.type == type) return row.name;
  }
  throw std::logic_error(fmt::format("no token type has the value {}", static_cast<int>(type)));
}

TokenType parse_token_type(std::string_view name, std::string_view place) {
  for (const Row& row : kTypes) {
    if (name == row.name || name == row.long_name) return row.type;
  }
  user_error("{}: no token type is called '{}'; use one of u16, i32, u8, i8, i16, u32, i64", place,
             printable(name));
}

std::optional<TokenType> token_type_of_code(uint8_t code) {
  for (const Row& row : kTypes) {
    if (code != 0 && code == static_cast<uint8_t>(row.type)) return row.type;
  }
  return std::nullopt;
}

bool fits(int64_t value, TokenType type) {
  return dispatch(type, [value](auto item) { return std::in_range<decltype(item)>(value); });
}

void narrow_tokens(std::span<const int64_t> values, TokenType type, std::span<std::byte> out) {
  if (std::ssize(out) != std::ssize(values) * item_size(type)) {
    throw std::logic_error(
        fmt::format("narrow_tokens: {} bytes for {} tokens", out.size(), values.size()));
  }
  dispatch(type, [&](auto item) {
    std::byte* target = out.data();
    for (const int64_t value : values) {
      item = static_cast<decltype(item)>(value);
      std::memcpy(target, &item, sizeof(item));
      target += sizeof(item);
    }
  });
}

void TokenView::read(int64_t offset, std::span<int64_t> out) const {
  const int64_t count = std::ssize(out);
  if (offset < 0 || count > size() || offset > size() - count) {
    throw std::out_of_range(
        fmt::format("{} tokens from {} on asked for, there are {}", count, offset, size()));
  }
  dispatch(type, [&](auto item) {
    // memcpy, because nothing in these files is aligned; it compiles to plain loads.
    const std::byte* from = bytes.data() + static_cast<size_t>(offset) * sizeof(item);
    for (int64_t& token : out) {
      std::memcpy(&item, from, sizeof(item));
      token = static_cast<int64_t>(item);
      from += sizeof(item);
    }
  });
}

}  // namespace rwkv::data
