#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace rwkv::trainer {

/// A span of time on one thread.
struct TraceEvent {
  int name = 0;               // from TraceFile::name()
  const char* category = "";  // "step", "part", "op" or "backward"
  uint64_t thread = 0;
  int64_t start_ns = 0;
  int64_t duration_ns = 0;
  int part = 0;  // from TraceFile::name(): the part of the step that it belongs to
  int64_t sequence =
      -1;  // autograd's number, which an operator shares with its backward node; -1 = none
};

/// Collects events and writes them in the Trace Event Format (complete events, ph "X", in
/// microseconds), which Perfetto and chrome://tracing open. Holds kMaxEvents at most, some 15 MB of
/// file; what comes later is counted and left out.
class TraceFile {
 public:
  static constexpr size_t kMaxEvents = 100'000;

  /// The number that stands for `text` in events.
  int name(std::string_view text);
  void add(const TraceEvent& event);
  void clear();
  [[nodiscard]] size_t size() const { return events_.size(); }
  [[nodiscard]] int64_t left_out() const { return left_out_; }

  /// Writes the file atomically. Throws UserError when that fails.
  void write(const std::filesystem::path& path, const std::string& title) const;

 private:
  std::unordered_map<std::string, int> numbers_;
  std::vector<std::string> names_;  // as JSON strings
  std::vector<TraceEvent> events_;
  int64_t left_out_ = 0;
};

}  // namespace rwkv::trainer
