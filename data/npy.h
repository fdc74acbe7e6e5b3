#pragma once

#include <cstdint>
#include <filesystem>
#include <span>

#include "data/base/mapped_file.h"
#include "data/token_type.h"

namespace rwkv::data {

/// A one-dimensional integer array in NumPy's .npy format (versions 1 to 3), mapped into memory:
/// u1, i1, i2, u2, i4, u4, i8, little endian. (NumPy enhancement proposal 1 and
/// numpy/lib/format.py.)
class NpyFile {
 public:
  /// Throws UserError for anything else: other shapes and types, big endian, pickled objects, sizes
  /// that do not match.
  explicit NpyFile(const std::filesystem::path& path);

  [[nodiscard]] TokenView view() const {
    return {file_.bytes().subspan(static_cast<size_t>(data_offset_)), type_};
  }
  [[nodiscard]] const MappedFile& file() const { return file_; }

 private:
  MappedFile file_;
  TokenType type_ = TokenType::kUint16;
  int64_t data_offset_ = 0;
};

/// Writes `tokens` as a one-dimensional .npy file (version 1, the bytes numpy.save writes). Throws
/// UserError when a token does not fit `type`.
void write_npy(const std::filesystem::path& path, std::span<const int64_t> tokens, TokenType type);

/// Writes float32 `values` row by row as an array of shape (values.size() / columns, columns).
void write_npy(const std::filesystem::path& path, std::span<const float> values, int64_t columns);

}  // namespace rwkv::data
