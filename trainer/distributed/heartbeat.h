#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>

#include "trainer/distributed/store.h"

namespace rwkv::trainer {

/// Tells the other ranks that this one lives: a thread that counts up in the store's key
/// `beat/RANK`, with the step that this rank is at and how many collectives it has come to. A
/// stopped or dead process does not count.
class Heartbeat {
 public:
  Heartbeat(StorePtr store, int64_t rank);
  Heartbeat(const Heartbeat&) = delete;
  Heartbeat& operator=(const Heartbeat&) = delete;
  ~Heartbeat();

  void at_step(int64_t step) { step_ = step; }
  void at_next_collective() { ++collectives_; }

  static constexpr std::chrono::milliseconds kInterval{500};

 private:
  void run();

  StorePtr store_;
  int64_t rank_;
  std::atomic<int64_t> step_{0};
  std::atomic<int64_t> collectives_{0};
  std::mutex mutex_;
  std::condition_variable wake_;
  bool stop_ = false;
  std::thread thread_;
};

/// What a rank's key said.
struct Beat {
  int64_t count = -1;  // -1: nothing yet
  int64_t step = 0;
  int64_t collectives = 0;
};
Beat read_beat(c10d::Store& store, int64_t rank);

}  // namespace rwkv::trainer
