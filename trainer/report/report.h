#pragma once

#include <filesystem>
#include <vector>

#include "trainer/report/run_data.h"

namespace rwkv::report {

/// Reads the runs in `folders` and writes one page about them to `out`, whole or not at all. Logs
/// of any length give a page of a few MB. Throws UserError when a folder is no run's, is named
/// twice, or `out` cannot be written.
void write_report(const std::vector<std::filesystem::path>& folders,
                  const std::filesystem::path& out, const ReadProgress& progress = {});

/// A ReadProgress that rewrites one line of the terminal; silent where stderr is none.
void show_read_progress(int64_t done_bytes, int64_t all_bytes);

}  // namespace rwkv::report
