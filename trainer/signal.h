#pragma once

namespace rwkv::trainer {

/// While it lives, SIGTERM, SIGINT and SIGUSR1 ask for a stop instead of ending the process: the
/// loop finishes its step, saves and leaves with exit code 4. A further signal two seconds later or
/// more leaves at once, with 128 + the signal's number. One at a time; the destructor restores the
/// handlers that were there.
class StopSignals {
 public:
  StopSignals();
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;
  ~StopSignals();

  /// The number of the signal that asked for a stop, or 0.
  [[nodiscard]] static int requested();
};

}  // namespace rwkv::trainer
