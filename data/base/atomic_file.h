#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string_view>

namespace rwkv {

/// Writes `PATH.tmp-<pid>` and renames it to PATH on commit(): a reader sees the old file or the
/// whole new one. Without commit() the destructor removes the temporary file. Failed writes throw
/// UserError with the path and the system's reason (disk full, read-only, quota). Retries EINTR and
/// short writes.
class AtomicFile {
 public:
  /// Creates the temporary file beside `path`; the folder must exist.
  explicit AtomicFile(std::filesystem::path path);
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;
  ~AtomicFile();

  void write(std::span<const std::byte> bytes);
  void write(std::string_view text) { write(std::as_bytes(std::span(text.data(), text.size()))); }
  /// Overwrites bytes written before, at `offset` from the start; the position stays at the end.
  void write_at(int64_t offset, std::span<const std::byte> bytes);
  [[nodiscard]] int64_t size_bytes() const { return size_bytes_; }
  /// CRC-32C of all bytes that write() took (write_at() is not reflected).
  [[nodiscard]] uint32_t crc32c() const { return crc_; }

  /// fsync, rename over `path`, fsync of the folder.
  void commit();

 private:
  std::filesystem::path path_;
  std::filesystem::path temporary_;
  int fd_ = -1;
  int64_t size_bytes_ = 0;
  uint32_t crc_ = 0;
};

/// Writes `text` to `path` by way of AtomicFile.
void write_file_atomically(const std::filesystem::path& path, std::string_view text);

/// fsync of a folder, so that renames inside it survive a power cut.
void sync_folder(const std::filesystem::path& folder);

}  // namespace rwkv
