#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

namespace rwkv::data {

/// How one token is stored, little endian. The values are the dtype codes of .idx files; 6 and 7
/// are floating point there (and swapped between gpt-neox and Megatron-LM), so they have no name
/// here.
enum class TokenType : uint8_t {
  kUint32 = 0,  ///< in .npy and raw files only: .idx has no code for it
  kUint8 = 1,
  kInt8 = 2,
  kInt16 = 3,
  kInt32 = 4,
  kInt64 = 5,
  kUint16 = 8,
};

/// Bytes of one token.
int64_t item_size(TokenType type);

/// "u16", "i32", ...
std::string_view token_type_name(TokenType type);

/// The type called `name`: "u16" or "uint16", "i32" or "int32", and so on. Throws UserError, which
/// begins with `place` and lists the names.
TokenType parse_token_type(std::string_view name, std::string_view place);

/// The type of an .idx dtype code, or nothing for a code that holds no tokens.
std::optional<TokenType> token_type_of_code(uint8_t code);

/// True when `value` can be stored as `type` without loss.
bool fits(int64_t value, TokenType type);

/// Stores `values` (each must fit) as `type` into `out`, which holds values.size() *
/// item_size(type) bytes.
void narrow_tokens(std::span<const int64_t> values, TokenType type, std::span<std::byte> out);

/// Tokens in memory that somebody else owns. The bytes need no alignment.
struct TokenView {
  std::span<const std::byte> bytes;
  TokenType type = TokenType::kUint8;

  /// Number of whole tokens.
  [[nodiscard]] int64_t size() const { return std::ssize(bytes) / item_size(type); }

  /// Widens tokens `offset` ... `offset + out.size() - 1` into `out`; unsigned types are widened
  /// without sign. Throws std::out_of_range outside [0, size()).
  void read(int64_t offset, std::span<int64_t> out) const;
};

}  // namespace rwkv::data
