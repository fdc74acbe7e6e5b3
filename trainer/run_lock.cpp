#include "trainer/run_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <iterator>
#include <string>
#include <system_error>

#include "data/base/error.h"

namespace rwkv::trainer {

namespace {

namespace fs = std::filesystem;

/// The outermost part of `folder` that does not exist; empty when all of it does.
fs::path first_missing(const fs::path& folder) {
  fs::path missing;
  std::error_code ignored;
  for (fs::path at = folder; !at.empty() && !fs::exists(at, ignored); at = at.parent_path()) {
    missing = at;
  }
  return missing;
}

/// Whether `file` is still what `fd` has open: another process may have removed it meanwhile.
bool is_file_at(int fd, const fs::path& file) {
  struct stat opened {};
  struct stat found {};
  return ::fstat(fd, &opened) == 0 && ::stat(file.c_str(), &found) == 0 &&
         opened.st_ino == found.st_ino && opened.st_dev == found.st_dev;
}

}  // namespace

RunLock::RunLock(const std::filesystem::path& folder)
    : folder_(folder), first_new_(first_missing(folder)) {
  const std::string name = printable(folder.string());
  std::error_code failed;
  std::filesystem::create_directories(folder, failed);
  if (failed) {
    user_error("train.out_dir: cannot create {}: {}; choose another folder", name,
               failed.message());
  }
  const std::filesystem::path file = folder / "lock";
  fd_ = ::open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (fd_ < 0) {
    user_error("train.out_dir: cannot write into {}: {}; choose another folder", name,
               std::strerror(errno));
  }
  if (::flock(fd_, LOCK_EX | LOCK_NB) != 0) {
    std::array<char, 32> holder{};
    const ssize_t n = ::pread(fd_, holder.data(), holder.size() - 1, 0);
    ::close(fd_);
    user_error("train.out_dir: process {} is training in {}; stop it or choose another folder",
               n > 0 ? printable(holder.data()) : "?", name);
  }
  if (!is_file_at(fd_, file)) {
    ::close(fd_);
    user_error("train.out_dir: another process removed {} just now; start again", name);
  }
  const std::string pid = std::to_string(::getpid());
  // The number only helps the message above; the lock itself does not depend on it.
  if (::ftruncate(fd_, 0) != 0 || ::pwrite(fd_, pid.data(), pid.size(), 0) < 0) {
    const int reason = errno;
    ::close(fd_);
    user_error("train.out_dir: cannot write into {}: {}; free space or choose another folder", name,
               std::strerror(reason));
  }
}

RunLock::~RunLock() {
  std::error_code failed;
  const auto files = first_new_.empty() ? 2
                                        : std::distance(fs::directory_iterator(folder_, failed),
                                                        fs::directory_iterator());
  if (!failed && files == 1) {
    fs::remove(folder_ / "lock", failed);
    // Empty folders only: what somebody else put there stays.
    for (fs::path at = folder_; fs::remove(at, failed) && at != first_new_;) at = at.parent_path();
  }
  ::close(fd_);
}

}  // namespace rwkv::trainer
