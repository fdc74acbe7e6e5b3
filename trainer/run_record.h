#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

#include "trainer/report/run_files.h"

namespace rwkv::trainer {

/// Writes sessions.jsonl while a session of training lives, and report.html at its end. Nothing
/// here stops a run: what cannot be written is reported and left out.
class RunRecord {
 public:
  /// `step`: updates done, as training counts them; it outlives the record.
  RunRecord(std::filesystem::path folder, const report::SessionStart& session, const int64_t& step);
  RunRecord(const RunRecord&) = delete;
  RunRecord& operator=(const RunRecord&) = delete;
  /// Without end(): the session ended by an error.
  ~RunRecord();

  /// `status` is a few words for people, e.g. "finished".
  void end(std::string_view status);

 private:
  std::filesystem::path folder_;
  const int64_t& step_;
  bool ended_ = false;
};

}  // namespace rwkv::trainer
