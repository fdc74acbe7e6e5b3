#include "trainer/report/report.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <map>
#include <set>
#include <system_error>

#include "data/base/atomic_file.h"
#include "data/base/error.h"
#include "trainer/report/page.h"

namespace rwkv::report {
namespace {

namespace fs = std::filesystem;

/// Names for the legends: the last part of each path, or the whole where that is not unique.
void name_runs(const std::vector<fs::path>& folders, std::vector<RunData>& runs) {
  std::map<std::string, int> uses;
  for (RunData& run : runs) ++uses[run.name];
  for (size_t i = 0; i < runs.size(); ++i) {
    if (uses[runs[i].name] > 1) runs[i].name = folders[i].string();
  }
}

/// `folder` without dots and symbolic links, so that "runs/a/" is "runs/a" and "." has a name.
fs::path resolved(const fs::path& folder) {
  std::error_code error;
  const fs::path path = fs::canonical(folder, error);
  return error ? folder : path;
}

}  // namespace

void show_read_progress(int64_t done_bytes, int64_t all_bytes) {
  if (::isatty(STDERR_FILENO) != 1 || all_bytes <= 0) return;
  if (done_bytes < all_bytes) {
    fmt::print(stderr, "\rreading {}: {} %\x1b[K", kMetricsFile, 100 * done_bytes / all_bytes);
  } else {
    fmt::print(stderr, "\r\x1b[K");
  }
}

void write_report(const std::vector<fs::path>& folders, const fs::path& out,
                  const ReadProgress& progress) {
  std::error_code error;
  if (fs::is_directory(out, error)) {
    user_error("{}: is a folder; name a file to write", printable(out.string()));
  }
  constexpr size_t kMaxBinsInAll = 6000;
  const size_t max_bins =
      std::clamp<size_t>(kMaxBinsInAll / std::max<size_t>(1, folders.size()), 150, 2000);
  std::set<fs::path> seen;
  std::vector<RunData> runs;
  for (const fs::path& folder : folders) {
    const fs::path path = resolved(folder);
    if (!seen.insert(path).second) {
      user_error("{}: is named twice; name every run once", printable(folder.string()));
    }
    runs.push_back(read_run(folder, max_bins, progress));
    runs.back().name = path.filename().string();
  }
  name_runs(folders, runs);
  write_file_atomically(out, make_page(runs, utc_now()));
}

}  // namespace rwkv::report
