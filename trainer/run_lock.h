#pragma once

#include <filesystem>

namespace rwkv::trainer {

/// Holds the file `lock` of a run's folder, so that two trainers never write into one folder. The
/// kernel drops the lock when the process ends, however it ends: a stale file never blocks a
/// restart. Folders that it made and that hold nothing but the lock at the end, because the run
/// failed before it wrote anything, are removed again.
class RunLock {
 public:
  /// Creates the folder when it is missing. Throws UserError naming the process that holds it, or
  /// the reason why the folder cannot be written.
  explicit RunLock(const std::filesystem::path& folder);
  RunLock(const RunLock&) = delete;
  RunLock& operator=(const RunLock&) = delete;
  ~RunLock();

 private:
  std::filesystem::path folder_;
  std::filesystem::path first_new_;  // the outermost folder that was made; empty for none
  int fd_ = -1;
};

}  // namespace rwkv::trainer
