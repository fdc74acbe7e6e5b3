#include "trainer/run_record.h"

#include <spdlog/spdlog.h>

#include <exception>
#include <utility>

#include "data/base/error.h"
#include "trainer/report/report.h"

namespace rwkv::trainer {
namespace {

/// Runs `write`; what it throws becomes a warning.
template <typename Write>
void try_to(const char* what, const Write& write) {
  try {
    write();
  } catch (const std::exception& error) {
    spdlog::warn("{} was not written: {}; the run is not affected", what, error.what());
  }
}

}  // namespace

RunRecord::RunRecord(std::filesystem::path folder, const report::SessionStart& session,
                     const int64_t& step)
    : folder_(std::move(folder)), step_(step) {
  try_to(report::kSessionsFile, [&] {
    report::append_session_line(folder_, report::to_json_line(session, report::utc_now()));
  });
}

RunRecord::~RunRecord() {
  if (!ended_) end("stopped by an error");
}

void RunRecord::end(std::string_view status) {
  ended_ = true;
  try_to(report::kSessionsFile, [&] {
    report::append_session_line(folder_,
                                report::session_end_line(step_, status, report::utc_now()));
  });
  try_to(report::kReportFile, [&] {
    const std::filesystem::path path = folder_ / report::kReportFile;
    report::write_report({folder_}, path, report::show_read_progress);
    spdlog::info("curves and texts: {}", printable(path.string()));
  });
}

}  // namespace rwkv::trainer
