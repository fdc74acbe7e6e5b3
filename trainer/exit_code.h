#pragma once

#include <stdexcept>

namespace rwkv::trainer {

/// Exit codes of every command.
enum ExitCode : int {
  kFinished = 0,
  kBug = 1,              // ours; a trace is printed
  kUserMistake = 2,      // one line
  kNotFinite = 3,        // loss or gradients
  kStoppedBySignal = 4,  // after saving: the same command resumes
  kPeerLost = 5          // another process of the run: restart from the newest checkpoint
};

/// Loss or gradients are NaN or infinite; the message names step and parameter. Nothing was
/// updated.
class NotFiniteError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Another process of the run is gone, silent or of another opinion; the message names it. The
/// collectives that were under way cannot be waited for, so the process should end at once.
class PeerLostError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

}  // namespace rwkv::trainer
