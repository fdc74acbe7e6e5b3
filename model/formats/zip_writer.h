#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "data/base/atomic_file.h"

namespace rwkv::formats {

/// Writes a zip archive of stored entries front to back into an AtomicFile, the way torch's own
/// reader wants it: true sizes and CRC-32 in the local headers, data at multiples of 64 bytes (so
/// that it can be mapped), zip64 fields where a number does not fit.
class ZipWriter {
 public:
  /// Numbers from `zip64_from` on go to zip64 fields. The format asks for 0xffffffff; tests use
  /// less, so that small files exercise the layout of large ones.
  explicit ZipWriter(AtomicFile& file, uint64_t zip64_from = 0xffffffff)
      : file_(file), zip64_from_(zip64_from) {}

  /// Writes one entry whole. Names are UTF-8 and differ.
  void add(const std::string& name, std::span<const std::byte> content);
  /// Writes the directory and the end records; nothing may follow. Does not commit the file.
  void finish();

 private:
  struct Entry {
    std::string name;
    uint32_t crc32;
    uint64_t size;
    uint64_t offset;
  };

  [[nodiscard]] bool is_wide(uint64_t value) const { return value >= zip64_from_; }
  [[nodiscard]] uint32_t narrow(uint64_t value) const;
  [[nodiscard]] std::string local_header(const Entry& entry) const;
  [[nodiscard]] std::string central_header(const Entry& entry) const;

  AtomicFile& file_;
  uint64_t zip64_from_;
  std::vector<Entry> entries_;
};

}  // namespace rwkv::formats
