#include "trainer/run_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <string>
#include <system_error>

#include "data/base/error.h"

namespace rwkv::trainer {

RunLock::RunLock(const std::filesystem::path& folder) {
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
  const std::string pid = std::to_string(::getpid());
  // The number only helps the message above; the lock itself does not depend on it.
  if (::ftruncate(fd_, 0) != 0 || ::pwrite(fd_, pid.data(), pid.size(), 0) < 0) {
    const int reason = errno;
    ::close(fd_);
    user_error("train.out_dir: cannot write into {}: {}; free space or choose another folder", name,
               std::strerror(reason));
  }
}

RunLock::~RunLock() { ::close(fd_); }

}  // namespace rwkv::trainer
