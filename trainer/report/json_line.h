#pragma once

#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace rwkv::report {

/// Reads a text file line by line, in fixed memory whatever the file holds.
class LineReader {
 public:
  /// Longer lines than this are no lines of ours; what goes beyond it is dropped.
  static constexpr size_t kMaxLineBytes = size_t{1} << 20;

  /// Throws UserError when the file is missing, no regular file, or cannot be read.
  explicit LineReader(const std::filesystem::path& path);

  /// The next line without its end, or nothing at the end of the file. Valid until the next call.
  /// Throws UserError when the file cannot be read on.
  std::optional<std::string_view> next();

  /// Whether the last line ended with a line feed and was not too long: false for one that a
  /// program is still writing, or that a crash cut off.
  [[nodiscard]] bool whole() const { return whole_; }
  [[nodiscard]] int64_t bytes_read() const { return bytes_read_; }
  [[nodiscard]] int64_t size_bytes() const { return size_bytes_; }

 private:
  bool refill();

  std::filesystem::path path_;
  std::unique_ptr<std::FILE, int (*)(std::FILE*)> file_;
  std::string buffer_;
  size_t position_ = 0;
  std::string line_;
  bool whole_ = false;
  int64_t bytes_read_ = 0;
  int64_t size_bytes_ = 0;
};

/// A line of metrics.jsonl: its integers `step` and `tokens`, and every other column that is a
/// number. `null` stands for a value that is not finite, true and false count 1 and 0.
struct MetricLine {
  int64_t step = 0;
  std::optional<int64_t> tokens;
  std::vector<std::pair<std::string, double>> values;
};

/// Nothing when `line` is no JSON object with a `step` from 0 to 2^53. Columns of other types are
/// left out. Values beyond float's range count as not finite.
std::optional<MetricLine> parse_metric_line(std::string_view line);

}  // namespace rwkv::report
