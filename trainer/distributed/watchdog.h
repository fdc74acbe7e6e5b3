#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <string>
#include <thread>

namespace rwkv::trainer {

/// The last resort against hangs: when what it watches takes too long, it prints one line and ends
/// the process with exit code 5. Collectives have timeouts of their own, and they name a rank; but
/// a store whose machine fell silent blocks for ever, and NCCL may too.
class Watchdog {
 public:
  Watchdog();
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;
  ~Watchdog();

  /// Watches until it is destroyed. A scope inside of another one takes its place meanwhile.
  class Scope {
   public:
    Scope(Watchdog& watchdog, std::chrono::milliseconds limit, std::string message);
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;
    ~Scope();

   private:
    Watchdog& watchdog_;
    std::chrono::steady_clock::time_point outer_deadline_;
    std::string outer_message_;
  };

 private:
  void run();

  std::mutex mutex_;
  std::condition_variable changed_;
  std::chrono::steady_clock::time_point deadline_ = std::chrono::steady_clock::time_point::max();
  std::string message_;
  bool stop_ = false;
  std::thread thread_;
};

}  // namespace rwkv::trainer
