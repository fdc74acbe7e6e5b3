#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace rwkv::formats {

/// One file inside a zip archive.
struct ZipEntry {
  std::string name;
  bool deflated = false;
  uint32_t crc32 = 0;
  int64_t size_bytes = 0;           // of the content
  uint64_t header_offset = 0;       // of the local header
  std::span<const std::byte> data;  // as it lies in the archive: the content itself unless deflated
};

/// Reads the directory of a zip archive (PKWARE APPNOTE, zip64 included) without trusting any
/// number in it: the end record first, then the central directory; of the local headers only the
/// lengths, since torch leaves their sizes zero. Refused by UserError: truncation, duplicate names,
/// encryption, methods other than stored and deflate, split archives, overlapping entries, sizes
/// that contradict each other.
///
/// Memory is proportional to the directory that is really there. Views `archive`.
class ZipReader {
 public:
  /// `source` names the archive in messages.
  ZipReader(std::span<const std::byte> archive, std::string source);

  [[nodiscard]] const std::vector<ZipEntry>& entries() const { return entries_; }
  /// The entry of that name, or nullptr.
  [[nodiscard]] const ZipEntry* find(std::string_view name) const;
  /// False when every CRC field is 0: the writer was told to leave checksums out.
  [[nodiscard]] bool has_checksums() const { return has_checksums_; }

  /// Compares `content` of `entry` with its CRC-32; throws UserError on a mismatch. Nothing is
  /// compared when the archive has no checksums.
  void verify(const ZipEntry& entry, std::span<const std::byte> content) const;
  /// The content of a deflated entry, `entry.size_bytes` long and verified. Throws UserError when
  /// the stream is damaged or does not give exactly that many bytes.
  [[nodiscard]] std::unique_ptr<std::byte[]> inflate(const ZipEntry& entry) const;

 private:
  struct Directory {
    uint64_t offset = 0;
    uint64_t size = 0;
    uint64_t count = 0;
  };
  struct CentralRecord;

  [[nodiscard]] std::span<const std::byte> slice(uint64_t offset, uint64_t length,
                                                 std::string_view what) const;
  [[nodiscard]] uint64_t find_end_record() const;
  [[nodiscard]] Directory read_end_records() const;
  [[nodiscard]] Directory read_zip64_end(uint64_t locator_at, const Directory& classic) const;
  void read_directory(const Directory& directory);
  [[nodiscard]] CentralRecord read_central_record(uint64_t at) const;
  void apply_zip64(CentralRecord& record, std::span<const std::byte> extra) const;
  [[nodiscard]] ZipEntry make_entry(const CentralRecord& record, uint64_t directory_at) const;
  void check_overlaps() const;
  void check_inflated_sizes() const;
  [[noreturn]] void fail(const std::string& problem) const;

  std::span<const std::byte> archive_;
  std::string source_;
  std::vector<ZipEntry> entries_;
  std::map<std::string, size_t, std::less<>> index_;
  bool has_checksums_ = true;
};

}  // namespace rwkv::formats
