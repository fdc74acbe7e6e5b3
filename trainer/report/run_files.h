#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace rwkv::report {

// Small files of a run's folder beside metrics.jsonl, one JSON object a line. docs/formats.md
// describes them.
inline constexpr const char* kMetricsFile = "metrics.jsonl";
inline constexpr const char* kSessionsFile = "sessions.jsonl";
inline constexpr const char* kSamplesFile = "samples.jsonl";
inline constexpr const char* kReportFile = "report.html";

/// The machine as the kernel describes it. Texts are empty and numbers 0 where it does not.
struct Machine {
  std::string processor;     // model name
  int64_t cores = 0;         // logical ones that this process may use
  int64_t memory_bytes = 0;  // of the whole machine
  std::string system;        // e.g. "Linux 6.1.0 x86_64"
};

/// Reads /proc and asks the kernel.
Machine this_machine();

/// Start of one session: one call of `rwkv train`. A run has several when it was resumed.
struct SessionStart {
  int64_t step = 0;     // updates done before
  std::string version;  // of the program, with commit and LibTorch
  Machine machine;
  int64_t threads = 0;
  std::string device;
  int64_t parameters = 0;
  int64_t training_tokens = 0;                              // in the training file, not the run's
  std::vector<std::pair<std::string, std::string>> config;  // effective; dotted key to YAML value
};

/// A text that the model wrote.
struct SampleText {
  int64_t step = 0;
  std::string prompt;
  std::string text;  // without the prompt; any bytes
};

// Lines without their end. Bytes that are no UTF-8 become U+FFFD. `time` is UTC, ISO 8601.
std::string to_json_line(const SessionStart& session, const std::string& time);
std::string session_end_line(int64_t step, std::string_view status, const std::string& time);
std::string to_json_line(const SampleText& sample);

/// Appends `line` to sessions.jsonl of `folder`. Throws UserError when that fails.
void append_session_line(const std::filesystem::path& folder, std::string_view line);

/// The time now, "2026-11-24T09:00:00Z".
std::string utc_now();

}  // namespace rwkv::report
