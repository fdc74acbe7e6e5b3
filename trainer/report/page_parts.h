#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "trainer/report/run_data.h"

namespace rwkv::report {

// The parts of the page, each a piece of HTML.

/// Style sheet and script, from page.css and page.js.
std::string_view page_style();
std::string_view page_script();

/// A sign in a run's colour, as it stands in legends and tables.
std::string run_sign(size_t run);

/// Status, steps, tokens, losses, speed and time, one row a run.
std::string figures_table(const std::vector<RunData>& runs);

/// All charts, and their data as JSON for the script.
std::string charts_section(const std::vector<RunData>& runs);

/// The effective configuration: for several runs what differs first, then all.
std::string config_section(const std::vector<RunData>& runs);

std::string samples_section(const std::vector<RunData>& runs);

std::string machine_section(const std::vector<RunData>& runs);

/// What the reader should know about the logs: lines passed over, values that are not finite.
std::string notes(const std::vector<RunData>& runs);

}  // namespace rwkv::report
