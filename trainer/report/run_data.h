#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "trainer/report/run_files.h"
#include "trainer/report/thinning.h"

namespace rwkv::report {

/// A column of metrics.jsonl, thinned, with the figures that thinning would lose.
struct Metric {
  std::vector<Point> points;
  std::vector<Point> smoothed;
  int64_t count = 0;       // finite values
  int64_t not_finite = 0;  // values that are NaN or infinite
  Point last;              // of the finite ones
  Point least;
};

/// Where the run stood at a step: to show curves over tokens or time.
struct Position {
  int64_t step = 0;
  int64_t tokens = 0;
  double elapsed_s = 0;
};

/// What a run's folder says, in bounded memory.
struct RunData {
  std::string name;  // for legends: the folder's name, or its path where that is not unique
  std::map<std::string, Metric> metrics;  // by column
  std::vector<Position> positions;        // ascending
  bool has_elapsed = false;  // false for logs without elapsed_s: their positions say 0 seconds
  Position last;
  double tokens_per_s = 0;  // mean over all steps; 0 where the log does not say
  int64_t skipped_updates = 0;
  int64_t damaged_lines = 0;  // of all files, passed over

  std::optional<SessionStart> session;  // the newest
  std::string started;                  // UTC; empty when sessions.jsonl is missing
  std::string ended;
  std::string status;               // of the newest session; empty while it runs or was killed
  std::vector<int64_t> resumed_at;  // steps after which a session went on
  std::vector<std::pair<std::string, std::string>> config;  // effective; from a checkpoint where
                                                            // there is no sessions.jsonl
  std::vector<SampleText> samples;                          // some, evenly spread
};

/// Called while a log is read: bytes done, bytes in all.
using ReadProgress = std::function<void(int64_t, int64_t)>;

/// Reads `folder`. Lines that are no JSON, have no step or go back in steps are passed over and
/// counted. Throws UserError when it is no run's folder or its log holds no whole line.
RunData read_run(const std::filesystem::path& folder, size_t max_bins,
                 const ReadProgress& progress = {});

}  // namespace rwkv::report
