#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <string_view>

#include "trainer/config_fields.h"
#include "trainer/report/axis.h"
#include "trainer/report/chart.h"
#include "trainer/report/page_parts.h"
#include "trainer/report/palette.h"
#include "trainer/report/utf8.h"

namespace rwkv::report {
namespace {

constexpr const char* kNone = "<span class=\"none\">-</span>";

std::string run_cell(const std::vector<RunData>& runs, size_t i) {
  return fmt::format("{}{}", runs.size() > 1 ? run_sign(i) : "", html_text(runs[i].name));
}

/// "1h02m", "3m05s" or "12s".
std::string duration(double seconds) {
  const auto total = static_cast<int64_t>(std::llround(seconds));
  if (total >= 3600) return fmt::format("{}h{:02}m", total / 3600, total / 60 % 60);
  if (total >= 60) return fmt::format("{}m{:02}s", total / 60, total % 60);
  return fmt::format("{}s", total);
}

const Metric* metric_of(const RunData& run, const char* name) {
  const auto found = run.metrics.find(name);
  return found == run.metrics.end() || found->second.count == 0 ? nullptr : &found->second;
}

std::string last_value(const RunData& run, const char* name, int decimals) {
  const Metric* metric = metric_of(run, name);
  return metric == nullptr ? "" : fmt::format("{:.{}f}", metric->last.value, decimals);
}

std::string best_validation(const RunData& run) {
  const Metric* metric = metric_of(run, "val_loss");
  if (metric == nullptr) return "";
  return fmt::format("{:.4f} <small>step {}</small>", metric->least.value, metric->least.step);
}

std::string status(const RunData& run) {
  if (!run.session) return kNone;  // not empty: the column stays
  return run.status.empty() ? "running or killed" : html_text(run.status);
}

/// A column of a table of runs: its heading, and the cell of a run; empty = the log does not say.
struct Column {
  const char* heading;
  std::function<std::string(const RunData&)> cell;
};

const std::vector<Column>& figure_columns() {
  static const std::vector<Column> columns = {
      {"state", status},
      {"steps", [](const RunData& r) { return fmt::format("{}", r.last.step); }},
      {"tokens",
       [](const RunData& r) {
         return r.last.tokens > 0 ? short_number(static_cast<double>(r.last.tokens)) : "";
       }},
      {"loss, smoothed", [](const RunData& r) { return last_value(r, "smoothed_loss", 4); }},
      {"bits per byte", [](const RunData& r) { return last_value(r, "bits_per_byte", 3); }},
      {"bits per character",
       [](const RunData& r) { return last_value(r, "bits_per_character", 3); }},
      {"validation loss", [](const RunData& r) { return last_value(r, "val_loss", 4); }},
      {"best validation loss", best_validation},
      {"validation bits per byte",
       [](const RunData& r) { return last_value(r, "val_bits_per_byte", 3); }},
      {"validation bits per character",
       [](const RunData& r) { return last_value(r, "val_bits_per_character", 3); }},
      {"tokens per second",
       [](const RunData& r) { return r.tokens_per_s > 0 ? short_number(r.tokens_per_s) : ""; }},
      {"time", [](const RunData& r) { return r.has_elapsed ? duration(r.last.elapsed_s) : ""; }},
      {"parameters",
       [](const RunData& r) {
         return r.session ? short_number(static_cast<double>(r.session->parameters)) : "";
       }},
      {"skipped updates", [](const RunData& r) {
         return r.skipped_updates > 0 ? fmt::format("{}", r.skipped_updates) : "";
       }}};
  return columns;
}

const std::vector<Column>& machine_columns() {
  static const std::vector<Column> columns = {
      {"processor", [](const RunData& r) { return html_text(r.session->machine.processor); }},
      {"logical cores",
       [](const RunData& r) { return fmt::format("{}", r.session->machine.cores); }},
      {"threads", [](const RunData& r) { return fmt::format("{}", r.session->threads); }},
      {"memory",
       [](const RunData& r) {
         return fmt::format("{:.1f} GiB",
                            static_cast<double>(r.session->machine.memory_bytes) / (1 << 30));
       }},
      {"device", [](const RunData& r) { return html_text(r.session->device); }},
      {"system", [](const RunData& r) { return html_text(r.session->machine.system); }},
      {"rwkv", [](const RunData& r) { return html_text(r.session->version); }},
      {"training tokens in the file",
       [](const RunData& r) {
         return short_number(static_cast<double>(r.session->training_tokens));
       }},
      {"started", [](const RunData& r) { return html_text(r.started); }},
      {"ended", [](const RunData& r) { return html_text(r.ended); }},
      {"resumed after steps", [](const RunData& r) {
         std::string steps;
         for (const int64_t step : r.resumed_at)
           steps += fmt::format("{}{}", steps.empty() ? "" : ", ", step);
         return steps;
       }}};
  return columns;
}

using Config = std::map<std::string, std::string>;

std::vector<Config> configs_of(const std::vector<RunData>& runs) {
  std::vector<Config> configs;
  for (const RunData& run : runs) configs.emplace_back(run.config.begin(), run.config.end());
  return configs;
}

/// All keys of all runs, in the order of the first run that has them.
std::vector<std::string> keys_of(const std::vector<RunData>& runs) {
  std::vector<std::string> keys;
  std::set<std::string> seen;
  for (const RunData& run : runs) {
    for (const auto& [key, value] : run.config) {
      if (seen.insert(key).second) keys.push_back(key);
    }
  }
  return keys;
}

const std::string* value_of(const Config& config, const std::string& key) {
  const auto found = config.find(key);
  return found == config.end() ? nullptr : &found->second;
}

bool differs(const std::vector<Config>& configs, const std::string& key) {
  const std::string* first = value_of(configs.front(), key);
  return std::any_of(configs.begin(), configs.end(), [&](const Config& config) {
    const std::string* other = value_of(config, key);
    return (first == nullptr) != (other == nullptr) || (first != nullptr && *first != *other);
  });
}

/// One row a key, one column a run.
std::string comparison(const std::vector<RunData>& runs, const std::vector<Config>& configs,
                       const std::vector<std::string>& keys, bool mark) {
  std::string out = "<div class=\"scroll\"><table class=\"config\"><thead><tr><th>key</th>";
  for (size_t i = 0; i < runs.size(); ++i) out += "<th>" + run_cell(runs, i) + "</th>";
  out += "</tr></thead><tbody>";
  for (const std::string& key : keys) {
    const bool differing = differs(configs, key);
    out +=
        fmt::format("<tr{}><th>{}{}</th>", differing && mark ? " class=\"differs\"" : "",
                    differing && mark ? "<span class=\"mark\">&ne;</span> " : "", html_text(key));
    for (const Config& config : configs) {
      const std::string* value = value_of(config, key);
      out += fmt::format("<td>{}</td>", value != nullptr ? html_text(*value) : kNone);
    }
    out += "</tr>";
  }
  return out + "</tbody></table></div>";
}

/// One run: a small table a section; what differs from the defaults is marked.
std::string one_config(const RunData& run) {
  Config defaults;
  for (const auto& field : trainer::default_fields()) defaults[field.key] = field.value;
  std::string out = "<p class=\"hint\"><b class=\"set\">Bold</b>: not the default.</p>";
  out += "<div class=\"sections\">";
  std::string open;
  for (const auto& [key, value] : run.config) {
    const size_t dot = key.find('.');
    const std::string section = key.substr(0, dot);
    if (section != open) {
      out += open.empty() ? "" : "</table></div>";
      out += fmt::format("<div><h3>{}</h3><table class=\"config\">", html_text(section));
      open = section;
    }
    const std::string* usual = value_of(defaults, key);
    const bool set = usual == nullptr || *usual != value;
    out += fmt::format("<tr{}><th>{}</th><td>{}</td></tr>", set ? " class=\"set\"" : "",
                       html_text(dot == std::string::npos ? key : key.substr(dot + 1)),
                       value.empty() ? kNone : html_text(value));
  }
  return out + (open.empty() ? "" : "</table></div>") + "</div>";
}

/// At most `max_bytes` bytes of a text, cut between characters.
std::string shortened(const std::string& text, size_t max_bytes) {
  const std::string clean = clean_utf8(text);
  if (clean.size() <= max_bytes) return html_text(clean);
  size_t end = max_bytes;
  while (end > 0 && (static_cast<unsigned char>(clean[end]) & 0xc0) == 0x80) --end;
  return html_text(clean.substr(0, end)) +
         fmt::format("<i class=\"cut\"> ... {} more bytes</i>", clean.size() - end);
}

}  // namespace

std::string run_sign(size_t run) {
  return fmt::format(
      "<svg class=\"sign r{}\" viewBox=\"0 0 22 12\" width=\"22\" height=\"12\" "
      "aria-hidden=\"true\"><path class=\"curve line{}\" d=\"M1,6H21\"/></svg>",
      run % kLightPalette.size(), run >= kLightPalette.size() ? " again" : "");
}

std::string figures_table(const std::vector<RunData>& runs) {
  std::string head = "<tr><th>run</th>";
  std::vector<std::string> rows;
  for (size_t i = 0; i < runs.size(); ++i) rows.push_back("<tr><th>" + run_cell(runs, i) + "</th>");
  for (const Column& column : figure_columns()) {
    std::vector<std::string> cells;
    for (const RunData& run : runs) cells.push_back(column.cell(run));
    if (std::all_of(cells.begin(), cells.end(), [](const auto& c) { return c.empty(); })) continue;
    head += fmt::format("<th>{}</th>", column.heading);
    for (size_t i = 0; i < runs.size(); ++i) {
      rows[i] += fmt::format("<td>{}</td>", cells[i].empty() ? kNone : cells[i]);
    }
  }
  std::string out =
      "<section id=\"figures\"><div class=\"scroll\"><table class=\"figures\"><thead>";
  out += head + "</tr></thead><tbody>";
  for (const std::string& row : rows) out += row + "</tr>";
  return out + "</tbody></table></div></section>\n";
}

std::string config_section(const std::vector<RunData>& runs) {
  std::string out = "<section id=\"config\"><h2>Configuration</h2>";
  const std::vector<std::string> keys = keys_of(runs);
  if (keys.empty()) {
    return out + "<p class=\"hint\">The folder holds none that this version reads.</p></section>\n";
  }
  if (runs.size() == 1) return out + one_config(runs.front()) + "</section>\n";
  const std::vector<Config> configs = configs_of(runs);
  std::vector<std::string> differing;
  std::copy_if(keys.begin(), keys.end(), std::back_inserter(differing),
               [&](const std::string& key) { return differs(configs, key); });
  if (differing.empty()) {
    out += "<p class=\"hint\">All runs have the same configuration.</p>";
  } else {
    out += fmt::format("<h3>What differs: {} of {} settings</h3>", differing.size(), keys.size());
    out += comparison(runs, configs, differing, /*mark=*/false);
  }
  out += "<details><summary>All settings</summary>";
  out += comparison(runs, configs, keys, /*mark=*/true);
  return out + "</details></section>\n";
}

std::string samples_section(const std::vector<RunData>& runs) {
  constexpr size_t kMaxBytes = 3000;
  // With several runs the first, the middle and the last text of each.
  const auto shown = [&](const RunData& run, size_t k) {
    const size_t count = run.samples.size();
    return runs.size() == 1 || k == 0 || k == count / 2 || k + 1 == count;
  };
  std::string out;
  for (size_t i = 0; i < runs.size(); ++i) {
    if (runs[i].samples.empty()) continue;
    if (runs.size() > 1) out += fmt::format("<h3>{}</h3>", run_cell(runs, i));
    out += "<div class=\"samples\">";
    for (size_t k = 0; k < runs[i].samples.size(); ++k) {
      if (!shown(runs[i], k)) continue;
      const SampleText& sample = runs[i].samples[k];
      out += fmt::format(
          "<article><h4>after step {}</h4><pre dir=\"auto\"><b>{}</b>{}</pre></article>",
          sample.step, shortened(sample.prompt, kMaxBytes), shortened(sample.text, kMaxBytes));
    }
    out += "</div>";
  }
  if (out.empty()) return "";
  return "<section id=\"samples\"><h2>Texts by the model</h2>" + out + "</section>\n";
}

std::string machine_section(const std::vector<RunData>& runs) {
  std::vector<size_t> known;
  for (size_t i = 0; i < runs.size(); ++i) {
    if (runs[i].session) known.push_back(i);
  }
  if (known.empty()) return "";
  std::string out =
      "<section id=\"machine\"><h2>Machine</h2><div class=\"scroll\"><table class=\"config\">";
  if (runs.size() > 1) {
    out += "<thead><tr><th></th>";
    for (const size_t i : known) out += "<th>" + run_cell(runs, i) + "</th>";
    out += "</tr></thead>";
  }
  for (const Column& column : machine_columns()) {
    out += fmt::format("<tr><th>{}</th>", column.heading);
    for (const size_t i : known) {
      const std::string cell = column.cell(runs[i]);
      out += fmt::format("<td>{}</td>", cell.empty() ? kNone : cell);
    }
    out += "</tr>";
  }
  return out + "</table></div></section>\n";
}

std::string notes(const std::vector<RunData>& runs) {
  std::string out;
  for (const RunData& run : runs) {
    if (run.damaged_lines > 0) {
      out += fmt::format("<li>{}: {} damaged or incomplete line{} passed over</li>",
                         html_text(run.name), run.damaged_lines, run.damaged_lines == 1 ? "" : "s");
    }
    for (const auto& [name, metric] : run.metrics) {
      if (metric.not_finite == 0) continue;
      out += fmt::format("<li>{}: {} value{} of {} not finite, left out of the curves</li>",
                         html_text(run.name), metric.not_finite, metric.not_finite == 1 ? "" : "s",
                         html_text(name));
    }
  }
  return out.empty() ? "" : "<ul class=\"notes\">" + out + "</ul>\n";
}

}  // namespace rwkv::report
