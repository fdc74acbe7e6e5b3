#include "trainer/report/run_data.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "data/base/error.h"
#include "data/base/mapped_file.h"
#include "trainer/config.h"
#include "trainer/config_fields.h"
#include "trainer/report/json_line.h"

namespace rwkv::report {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

constexpr size_t kMaxPositions = 1000;
constexpr size_t kMaxSamples = 8;
constexpr size_t kMaxMetrics = 64;  // columns beyond so many are left out

/// Collects metrics.jsonl line by line.
class MetricsReader {
 public:
  explicit MetricsReader(size_t max_bins) : max_bins_(max_bins), positions_(kMaxPositions) {}

  /// False when the line does not belong into a log.
  bool add(const MetricLine& line) {
    if (line.step < last_.step) return false;
    last_.step = line.step;
    for (const auto& [name, value] : line.values) {
      if (name == "elapsed_s") {
        if (std::isfinite(value)) last_.elapsed_s = std::max(last_.elapsed_s, value);
        has_elapsed_ = true;
      } else {
        add_value(name, line.step, value);
      }
    }
    if (line.tokens && *line.tokens >= last_.tokens) count_tokens(line);
    positions_.add(last_);
    return true;
  }

  void store(RunData& run) const {
    for (const auto& [name, column] : columns_) {
      Metric metric = column.metric;
      metric.points = column.thinner.points();
      metric.smoothed = column.thinner.smoothed();
      run.metrics.emplace(name, std::move(metric));
    }
    run.positions = positions_.items();
    run.has_elapsed = has_elapsed_;
    run.last = last_;
    if (seconds_ > 0) run.tokens_per_s = timed_tokens_ / seconds_;
    const auto skipped = columns_.find("skipped");
    if (skipped != columns_.end()) run.skipped_updates = skipped->second.metric.count;
  }

 private:
  struct Column {
    MinMaxThinner thinner;
    Metric metric;
  };

  void add_value(const std::string& name, int64_t step, double value) {
    auto found = columns_.find(name);
    if (found == columns_.end()) {
      if (columns_.size() >= kMaxMetrics) return;
      found = columns_.emplace(name, Column{MinMaxThinner(max_bins_), {}}).first;
    }
    Metric& metric = found->second.metric;
    if (!std::isfinite(value)) {
      ++metric.not_finite;
      return;
    }
    found->second.thinner.add(step, value);
    metric.last = {step, value};
    if (metric.count == 0 || value < metric.least.value) metric.least = metric.last;
    ++metric.count;
  }

  /// Seconds of training alone: tokens divided by the speed that the step had.
  void count_tokens(const MetricLine& line) {
    const auto tokens = static_cast<double>(*line.tokens - last_.tokens);
    last_.tokens = *line.tokens;
    for (const auto& [name, value] : line.values) {
      if (name != "tokens_per_s" || !(value > 0)) continue;
      seconds_ += tokens / value;
      timed_tokens_ += tokens;
    }
  }

  size_t max_bins_;
  std::map<std::string, Column> columns_;
  EvenThinner<Position> positions_;
  Position last_;
  bool has_elapsed_ = false;
  double seconds_ = 0;
  double timed_tokens_ = 0;
};

void read_metrics(const fs::path& path, size_t max_bins, const ReadProgress& progress,
                  RunData& run) {
  LineReader reader(path);
  MetricsReader metrics(max_bins);
  int64_t lines = 0;
  while (const auto text = reader.next()) {
    if (progress && ++lines % 4096 == 0) progress(reader.bytes_read(), reader.size_bytes());
    const auto line = reader.whole() ? parse_metric_line(*text) : std::nullopt;
    if (!line || !metrics.add(*line)) ++run.damaged_lines;
  }
  metrics.store(run);
  if (progress) progress(reader.size_bytes(), reader.size_bytes());
  if (run.metrics.empty()) {
    user_error("{}: holds no whole line of a step{}; train first", printable(path.string()),
               run.damaged_lines > 0 ? fmt::format(" ({} damaged)", run.damaged_lines) : "");
  }
}

/// Calls `take` with every line that is a JSON object; `take` throws json::exception or returns
/// false for one that is not ours. A file that is missing has no lines.
template <typename Take>
void read_objects(const fs::path& path, int64_t& damaged_lines, const Take& take) {
  std::error_code error;
  if (!fs::exists(path, error)) return;
  LineReader reader(path);
  while (const auto text = reader.next()) {
    const auto entry = reader.whole()
                           ? ordered_json::parse(*text, nullptr, /*allow_exceptions=*/false)
                           : ordered_json(ordered_json::value_t::discarded);
    bool taken = false;
    try {
      taken = entry.is_object() && take(entry);
    } catch (const ordered_json::exception&) {
      taken = false;  // a key of another type
    }
    if (!taken) ++damaged_lines;
  }
}

SessionStart session_of(const ordered_json& entry) {
  SessionStart session;
  session.step = entry.at("step").get<int64_t>();
  session.version = entry.value("version", "");
  session.machine.processor = entry.value("processor", "");
  session.machine.cores = entry.value("cores", int64_t{0});
  session.machine.memory_bytes = entry.value("memory_bytes", int64_t{0});
  session.machine.system = entry.value("system", "");
  session.threads = entry.value("threads", int64_t{0});
  session.device = entry.value("device", "");
  session.parameters = entry.value("parameters", int64_t{0});
  session.training_tokens = entry.value("training_tokens", int64_t{0});
  for (const auto& [key, value] : entry.at("config").items()) {
    session.config.emplace_back(key, value.get<std::string>());
  }
  return session;
}

void read_sessions(const fs::path& path, RunData& run) {
  std::vector<int64_t> starts;
  read_objects(path, run.damaged_lines, [&](const ordered_json& entry) {
    const auto event = entry.at("event").get<std::string>();
    if (event == "start") {
      run.session = session_of(entry);
      if (run.started.empty()) run.started = entry.value("time", "");
      run.status.clear();
      run.ended.clear();
      starts.push_back(run.session->step);
    } else if (event == "end") {
      run.status = entry.at("status").get<std::string>();
      run.ended = entry.value("time", "");
    }
    return event == "start" || event == "end";
  });
  for (const int64_t step : starts) {
    const bool new_step = run.resumed_at.empty() || run.resumed_at.back() != step;
    if (step > 0 && step < run.last.step && new_step) run.resumed_at.push_back(step);
  }
  if (run.session) run.config = run.session->config;
}

void read_samples(const fs::path& path, RunData& run) {
  EvenThinner<SampleText> samples(kMaxSamples);
  read_objects(path, run.damaged_lines, [&](const ordered_json& entry) {
    samples.add({entry.at("step").get<int64_t>(), entry.value("prompt", ""),
                 entry.at("text").get<std::string>()});
    return true;
  });
  run.samples = samples.items();
}

/// config.yaml of the newest checkpoint: for folders without sessions.jsonl.
void read_checkpoint_config(const fs::path& folder, RunData& run) {
  fs::path newest;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    const fs::path path = entry.path() / "config.yaml";
    if (entry.path().filename().string().starts_with("step-") && fs::exists(path, error) &&
        path > newest) {
      newest = path;
    }
  }
  if (newest.empty()) return;
  try {
    for (const auto& field : trainer::list_fields(trainer::load_run_config(newest))) {
      run.config.emplace_back(field.key, field.value);
    }
  } catch (const UserError&) {
    // Written by another version: the report goes without it.
  }
}

}  // namespace

RunData read_run(const fs::path& folder, size_t max_bins, const ReadProgress& progress) {
  std::error_code error;
  const std::string shown = printable(folder.string());
  if (!fs::is_directory(folder, error)) {
    user_error("{}: {}; name the folder of a run (train.out_dir)", shown,
               fs::exists(folder, error) ? "is no folder" : "there is no such folder");
  }
  if (!fs::exists(folder / kMetricsFile, error)) {
    user_error("{}: holds no {}, so it is no run's folder; name what train.out_dir says", shown,
               kMetricsFile);
  }
  RunData run;
  run.name = folder.filename().string();
  read_metrics(folder / kMetricsFile, max_bins, progress, run);
  read_sessions(folder / kSessionsFile, run);
  read_samples(folder / kSamplesFile, run);
  if (run.config.empty()) read_checkpoint_config(folder, run);
  return run;
}

}  // namespace rwkv::report
