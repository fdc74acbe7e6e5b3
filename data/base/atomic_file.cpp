#include "data/base/atomic_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <csignal>
#include <cstring>
#include <string>
#include <utility>

#include "data/base/crc32c.h"
#include "data/base/error.h"

namespace rwkv {
namespace {

[[noreturn]] void write_failed(const std::filesystem::path& path, int reason) {
  user_error("cannot write {}: {}; free space or choose another folder", printable(path.string()),
             std::strerror(reason));
}

void write_all(int fd, const std::filesystem::path& path, int64_t offset,
               std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t n = ::pwrite(fd, bytes.data(), bytes.size(), offset);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) write_failed(path, n < 0 ? errno : ENOSPC);
    bytes = bytes.subspan(static_cast<size_t>(n));
    offset += n;
  }
}

std::filesystem::path folder_of(const std::filesystem::path& path) {
  return path.has_parent_path() ? path.parent_path() : std::filesystem::path(".");
}

/// Removes what processes that were killed left of earlier attempts to write `path`.
void remove_leftovers(const std::filesystem::path& path) {
  namespace fs = std::filesystem;
  const std::string start = path.filename().string() + ".tmp-";
  std::error_code ignored;
  for (fs::directory_iterator entry(folder_of(path), ignored), end; entry != end;
       entry.increment(ignored)) {
    const std::string name = entry->path().filename().string();
    if (!name.starts_with(start)) continue;
    int pid = 0;
    const char* const last = name.data() + name.size();
    const auto [rest, error] = std::from_chars(name.data() + start.size(), last, pid);
    const bool is_pid = error == std::errc() && rest == last && pid > 0;
    if (is_pid && ::kill(pid, 0) != 0 && errno == ESRCH) fs::remove(entry->path(), ignored);
  }
}

}  // namespace

AtomicFile::AtomicFile(std::filesystem::path path)
    : path_(std::move(path)), temporary_(path_.string() + ".tmp-" + std::to_string(::getpid())) {
  remove_leftovers(path_);
  fd_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (fd_ < 0) write_failed(path_, errno);
}

AtomicFile::~AtomicFile() {
  if (fd_ < 0) return;
  ::close(fd_);
  ::unlink(temporary_.c_str());
}

void AtomicFile::write(std::span<const std::byte> bytes) {
  write_all(fd_, path_, size_bytes_, bytes);
  crc_ = rwkv::crc32c(bytes, crc_);
  size_bytes_ += static_cast<int64_t>(bytes.size());
}

void AtomicFile::write_at(int64_t offset, std::span<const std::byte> bytes) {
  if (offset < 0 || offset + static_cast<int64_t>(bytes.size()) > size_bytes_) {
    throw std::logic_error("AtomicFile::write_at beyond what was written");
  }
  write_all(fd_, path_, offset, bytes);
}

void AtomicFile::commit() {
  if (::fsync(fd_) != 0) write_failed(path_, errno);
  if (::close(std::exchange(fd_, -1)) != 0 || ::rename(temporary_.c_str(), path_.c_str()) != 0) {
    const int reason = errno;
    ::unlink(temporary_.c_str());
    write_failed(path_, reason);
  }
  sync_folder(folder_of(path_));
}

void write_file_atomically(const std::filesystem::path& path, std::string_view text) {
  AtomicFile file(path);
  file.write(text);
  file.commit();
}

void sync_folder(const std::filesystem::path& folder) {
  const int fd = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) write_failed(folder, errno);
  const int result = ::fsync(fd);
  const int reason = errno;
  ::close(fd);
  // Some file systems cannot sync a folder and say EINVAL; their renames are as durable as they
  // get.
  if (result != 0 && reason != EINVAL) write_failed(folder, reason);
}

}  // namespace rwkv
