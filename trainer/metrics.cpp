#include "trainer/metrics.h"

#include <spdlog/spdlog.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "data/base/atomic_file.h"
#include "data/base/error.h"

namespace rwkv::trainer {
namespace {

using nlohmann::json;

/// The lines of `path` that are whole and belong to steps up to `last_step`; `see` is called with
/// the step and the object of each.
template <typename See>
std::string kept_lines(const std::filesystem::path& path, int64_t last_step, const See& see) {
  std::ifstream in(path);
  std::error_code ignored;
  if (!in && std::filesystem::exists(path, ignored)) {
    user_error("cannot read {}; check its rights", printable(path.string()));
  }
  std::string kept;
  for (std::string line; std::getline(in, line);) {
    const json entry = json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (!entry.is_object() || !entry.contains("step") || !entry["step"].is_number_integer())
      continue;
    const auto step = entry["step"].get<int64_t>();
    if (step > last_step) continue;
    kept += line + '\n';
    see(step, entry);
  }
  return kept;
}

void set_optional(nlohmann::ordered_json& entry, const char* key,
                  const std::optional<double>& value) {
  if (value) entry[key] = *value;
}

}  // namespace

MetricsLog::MetricsLog(const std::filesystem::path& folder, int64_t last_step, bool tensorboard)
    : folder_(folder),
      path_(folder / report::kMetricsFile),
      last_step_(last_step),
      tensorboard_(tensorboard) {
  const auto see = [this](int64_t step, const json& entry) {
    if (entry.contains("val_loss")) validated_step_ = step;
    const auto elapsed = entry.find("elapsed_s");
    if (elapsed != entry.end() && elapsed->is_number()) elapsed_before_s_ = elapsed->get<double>();
  };
  const auto see_nothing = [](int64_t, const json&) {};
  const std::filesystem::path samples = folder / report::kSamplesFile;
  std::error_code ignored;
  try {
    write_file_atomically(path_, kept_lines(path_, last_step, see));
    if (std::filesystem::exists(samples, ignored)) {
      write_file_atomically(samples, kept_lines(samples, last_step, see_nothing));
    }
  } catch (const UserError& error) {
    spdlog::error("{}; training goes on, steps may be logged twice", error.what());
  }
  out_.open(path_, std::ios::app);
}

void MetricsLog::write(const StepMetrics& metrics) {
  nlohmann::ordered_json entry;
  entry["step"] = metrics.step;
  entry["tokens"] = metrics.tokens;
  entry["loss"] = metrics.loss;
  entry["smoothed_loss"] = metrics.smoothed_loss;
  set_optional(entry, "bits_per_byte", metrics.bits_per_byte);
  set_optional(entry, "bits_per_character", metrics.bits_per_character);
  entry["lr"] = metrics.lr;
  entry["grad_norm"] = metrics.grad_norm;
  entry["tokens_per_s"] = std::round(metrics.tokens_per_s * 10) / 10;
  if (metrics.mfu) entry["mfu"] = std::round(*metrics.mfu * 1e4) / 1e4;
  if (metrics.wait_s) entry["wait_s"] = std::round(*metrics.wait_s * 1e6) / 1e6;
  if (metrics.skipped) entry["skipped"] = true;
  write_entry(entry, "train");
}

void MetricsLog::write(const ValidationMetrics& metrics) {
  if (metrics.step <= validated_step_) return;  // a finished run that was started again
  validated_step_ = metrics.step;
  nlohmann::ordered_json entry;
  entry["step"] = metrics.step;
  entry["tokens"] = metrics.tokens;
  entry["val_loss"] = metrics.val_loss;
  set_optional(entry, "val_bits_per_byte", metrics.val_bits_per_byte);
  set_optional(entry, "val_bits_per_character", metrics.val_bits_per_character);
  write_entry(entry, "validation");
}

void MetricsLog::write(const report::SampleText& sample) {
  const std::filesystem::path path = folder_ / report::kSamplesFile;
  std::ofstream out(path, std::ios::app);
  write_line(out, path, report::to_json_line(sample));
  write_event([&](EventFile& file) { file.text(sample.step, "sample/text", sample.text); });
}

void MetricsLog::write_entry(nlohmann::ordered_json& entry, const char* group) {
  const std::chrono::duration<double> elapsed = Clock::now() - start_;
  entry["elapsed_s"] = std::round((elapsed_before_s_ + elapsed.count()) * 100) / 100;
  write_line(out_, path_, entry.dump());
  std::vector<std::pair<std::string, double>> values;
  for (const auto& [name, value] : entry.items()) {
    if (name == "step" || !(value.is_number() || value.is_boolean())) continue;
    values.emplace_back(fmt::format("{}/{}", group, name),
                        value.is_boolean() ? value.get<bool>() : value.get<double>());
  }
  const auto step = entry["step"].get<int64_t>();
  write_event([&](EventFile& file) { file.scalars(step, values); });
}

void MetricsLog::write_line(std::ofstream& out, const std::filesystem::path& path,
                            const std::string& line) {
  out << line << '\n' << std::flush;
  if (out || failed_) return;
  failed_ = true;
  spdlog::error("cannot write {}; training goes on without it", printable(path.string()));
}

template <typename Write>
void MetricsLog::write_event(const Write& write) {
  if (!tensorboard_) return;
  try {
    if (!events_) events_.emplace(folder_, last_step_ + 1);
    write(*events_);
  } catch (const UserError& error) {
    // A record that was half written would hide what follows it: no more of this file.
    tensorboard_ = false;
    spdlog::error("{}; training goes on without it", error.what());
  }
}

ProgressLine::ProgressLine(int64_t total_steps)
    : total_steps_(total_steps), is_terminal_(::isatty(STDERR_FILENO) == 1), start_(Clock::now()) {}

void ProgressLine::show(const StepMetrics& metrics) {
  const auto now = Clock::now();
  if (first_step_ < 0) first_step_ = metrics.step - 1;
  const std::chrono::duration<double> interval(is_terminal_ ? 0.1 : 5.0);
  const bool last = metrics.step == total_steps_;
  if (!last && metrics.step > first_step_ + 1 && now - last_shown_ < interval) return;
  last_shown_ = now;
  const double elapsed_s = std::chrono::duration<double>(now - start_).count();
  const auto done = static_cast<double>(metrics.step - first_step_);
  const double left_s = elapsed_s / done * static_cast<double>(total_steps_ - metrics.step);
  const std::string bits =
      metrics.bits_per_byte ? fmt::format("  bits/byte {:.3f}", *metrics.bits_per_byte) : "";
  const std::string mfu = metrics.mfu ? fmt::format("  mfu {:.0f}%", *metrics.mfu * 100) : "";
  const std::string text = fmt::format(
      "step {}/{}  tokens {:.2f}M  loss {:.4f}  smoothed {:.4f}{}  lr {:.2e}  grad norm {:.2f}  "
      "{:.0f} tokens/s{}  left {}",
      metrics.step, total_steps_, static_cast<double>(metrics.tokens) / 1e6, metrics.loss,
      metrics.smoothed_loss, bits, metrics.lr, metrics.grad_norm, metrics.tokens_per_s, mfu,
      format_duration(left_s));
  std::fprintf(stderr, is_terminal_ ? "\r%s\x1b[K" : "%s\n", text.c_str());
  line_open_ = is_terminal_;
}

void ProgressLine::finish() {
  if (line_open_) std::fputc('\n', stderr);
  line_open_ = false;
}

std::string format_duration(double seconds) {
  const auto total = static_cast<int64_t>(std::lround(seconds));
  if (total >= 3600) return fmt::format("{}h{:02}m", total / 3600, total / 60 % 60);
  if (total >= 60) return fmt::format("{}m{:02}s", total / 60, total % 60);
  return fmt::format("{}s", total);
}

}  // namespace rwkv::trainer
