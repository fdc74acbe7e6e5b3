#pragma once

#include <string>
#include <vector>

#include "trainer/report/run_data.h"

namespace rwkv::report {

/// The report as one HTML page that needs nothing else. All text of the runs is escaped.
std::string make_page(const std::vector<RunData>& runs, const std::string& made_at);

}  // namespace rwkv::report
