#include "data/base/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <functional>
#include <utility>

#include "data/base/error.h"

namespace rwkv {
namespace {

int64_t mtime_ns(const struct stat& info) {
  return static_cast<int64_t>(info.st_mtim.tv_sec) * 1'000'000'000 + info.st_mtim.tv_nsec;
}

}  // namespace

MappedFile::MappedFile(const std::filesystem::path& path) : path_(path) {
  const std::string name = printable(path.string());
  fd_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd_ < 0) user_error("cannot open {}: {}; check the path", name, std::strerror(errno));
  struct stat info {};
  const bool known = ::fstat(fd_, &info) == 0;
  if (!known || !S_ISREG(info.st_mode)) {
    ::close(std::exchange(fd_, -1));
    user_error("{} is no regular file; name a file that can be mapped into memory", name);
  }
  size_ = static_cast<size_t>(info.st_size);
  mtime_ns_ = mtime_ns(info);
  if (size_ == 0) return;
  void* address = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, fd_, 0);
  if (address == MAP_FAILED) {
    const int reason = errno;
    ::close(std::exchange(fd_, -1));
    user_error("cannot map {} ({} bytes): {}", name, size_, std::strerror(reason));
  }
  data_ = static_cast<const std::byte*>(address);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)),
      data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)),
      fd_(std::exchange(other.fd_, -1)),
      mtime_ns_(other.mtime_ns_) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  std::swap(fd_, other.fd_);
  std::swap(mtime_ns_, other.mtime_ns_);
  return *this;
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_);
  if (fd_ >= 0) ::close(fd_);
}

bool MappedFile::holds(std::span<const std::byte> range) const {
  const std::less_equal<const std::byte*> ordered;
  return !range.empty() && size_ > 0 && ordered(data_, range.data()) &&
         ordered(range.data() + range.size(), data_ + size_);
}

void MappedFile::release(std::span<const std::byte> range) const {
  if (!holds(range)) return;
  // Whole pages, outwards: the map is read-only, so what is still needed comes back by itself.
  const auto page = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
  const auto begin = reinterpret_cast<uintptr_t>(range.data()) / page * page;
  const auto end = reinterpret_cast<uintptr_t>(range.data() + range.size());
  ::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
}

void MappedFile::check_unchanged() const {
  struct stat info {};
  if (::fstat(fd_, &info) != 0 || static_cast<size_t>(info.st_size) != size_ ||
      mtime_ns(info) != mtime_ns_) {
    user_error(
        "{} changed while it was being read ({} bytes when opened, {} now); do not write to it "
        "during a run",
        printable(path_.string()), size_, info.st_size);
  }
}

}  // namespace rwkv
