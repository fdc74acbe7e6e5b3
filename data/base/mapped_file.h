#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>

namespace rwkv {

/// A whole regular file mapped read-only into memory. Throws UserError (what, which file, how to
/// mend) when the file is missing, unreadable, a folder, or no regular file. Movable; an empty file
/// gives an empty span.
///
/// A mapped file that another process truncates faults on access. `check_unchanged()` compares size
/// and modification time with those seen at opening, so that long readers can turn that into a
/// message.
class MappedFile {
 public:
  explicit MappedFile(const std::filesystem::path& path);
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  ~MappedFile();

  [[nodiscard]] std::span<const std::byte> bytes() const { return {data_, size_}; }
  [[nodiscard]] int64_t size_bytes() const { return static_cast<int64_t>(size_); }
  [[nodiscard]] const std::filesystem::path& path() const { return path_; }

  /// Whether `range` lies in this file.
  [[nodiscard]] bool holds(std::span<const std::byte> range) const;
  /// Gives the memory of `range` (a part of bytes()) back to the system; reading it again maps it
  /// again. Keeps the memory of a reader that goes through a large file small.
  void release(std::span<const std::byte> range) const;

  /// Throws UserError when the file on disk is no longer the one that was mapped.
  void check_unchanged() const;

 private:
  std::filesystem::path path_;
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
  int fd_ = -1;
  int64_t mtime_ns_ = 0;
};

}  // namespace rwkv
