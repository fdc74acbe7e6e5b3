#pragma once

#include <cstdint>
#include <string_view>

#include "model/generate.h"

namespace rwkv::apps {

/// Writes text to standard output at once. Throws UserError when that fails (disk full, reader
/// gone).
void write_output(std::string_view text);

/// Throws UserError when something that was printed to standard output could not be written.
void check_output_written();

/// A progress callback that shows "WHAT: 12 %" on a terminal once somebody has waited for two
/// seconds, and clears the line at the end.
model::FeedProgress waiting_line(std::string_view what);

}  // namespace rwkv::apps
