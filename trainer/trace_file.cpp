#include "trainer/trace_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "data/base/atomic_file.h"

namespace rwkv::trainer {
namespace {

/// Microseconds with all nanoseconds kept, so that events nest to the last digit.
std::string microseconds(int64_t ns) { return fmt::format("{}.{:03}", ns / 1000, ns % 1000); }

std::string json_string(std::string_view text) {
  return nlohmann::json(text).dump(-1, ' ', /*ensure_ascii=*/true,
                                   nlohmann::json::error_handler_t::replace);
}

}  // namespace

int TraceFile::name(std::string_view text) {
  const auto [entry, is_new] =
      numbers_.try_emplace(std::string(text), static_cast<int>(names_.size()));
  if (is_new) names_.push_back(json_string(text));
  return entry->second;
}

void TraceFile::add(const TraceEvent& event) {
  if (events_.size() < kMaxEvents) {
    events_.push_back(event);
  } else {
    ++left_out_;
  }
}

void TraceFile::clear() {
  events_.clear();
  left_out_ = 0;
}

void TraceFile::write(const std::filesystem::path& path, const std::string& title) const {
  AtomicFile file(path);
  file.write(fmt::format(
      "{{\"displayTimeUnit\":\"ms\",\"otherData\":{{\"title\":{},\"events_left_out\":{}}},\n"
      "\"traceEvents\":[\n"
      "{{\"ph\":\"M\",\"pid\":1,\"name\":\"process_name\",\"args\":{{\"name\":{}}}}}",
      json_string(title), left_out_, json_string(title)));
  int64_t origin_ns = events_.empty() ? 0 : events_.front().start_ns;
  for (const TraceEvent& e : events_) origin_ns = std::min(origin_ns, e.start_ns);
  for (const TraceEvent& e : events_) {
    std::string line = fmt::format(
        ",\n{{\"ph\":\"X\",\"pid\":1,\"tid\":{},\"cat\":\"{}\",\"name\":{},\"ts\":{},\"dur\":{},"
        "\"args\":{{\"part\":{}",
        e.thread, e.category, names_[static_cast<size_t>(e.name)],
        microseconds(e.start_ns - origin_ns), microseconds(e.duration_ns),
        names_[static_cast<size_t>(e.part)]);
    if (e.sequence >= 0) line += fmt::format(",\"sequence\":{}", e.sequence);
    file.write(line + "}}");
  }
  file.write("\n]}\n");
  file.commit();
}

}  // namespace rwkv::trainer
