#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "trainer/report/chart.h"
#include "trainer/report/page_parts.h"
#include "trainer/report/utf8.h"

namespace rwkv::report {
namespace {

/// How a column of metrics.jsonl is shown.
struct ChartKind {
  std::string_view metric;
  std::string_view title;
  std::string_view unit;
  bool from_zero = false;
  CurveStyle style = CurveStyle::kLine;  // kRaw: pale, with a smoothed line over it
  double factor = 1;                     // from the log's number to the shown one
};

constexpr std::array kCharts = {
    ChartKind{"loss", "Loss", "nats per token", false, CurveStyle::kRaw},
    ChartKind{"val_loss", "Validation loss", "nats per token", false, CurveStyle::kDots},
    ChartKind{"lr", "Learning rate", "before layer-wise factors", false, CurveStyle::kLine},
    ChartKind{"grad_norm", "Gradient norm", "before clipping", false, CurveStyle::kRaw},
    ChartKind{"tokens_per_s", "Speed", "tokens per second", true, CurveStyle::kRaw},
    ChartKind{"mfu", "Utilisation (mfu)", "% of the machine's rate in matrix products", true,
              CurveStyle::kRaw, 100}};

/// Columns that other charts show, or that are a factor times the loss.
constexpr std::array<std::string_view, 7> kNoChart = {
    "smoothed_loss",          "bits_per_byte", "bits_per_character", "val_bits_per_byte",
    "val_bits_per_character", "skipped",       "elapsed_s"};

const Metric* find_metric(const RunData& run, std::string_view name) {
  const auto found = run.metrics.find(std::string(name));
  return found == run.metrics.end() || found->second.count == 0 ? nullptr : &found->second;
}

void add_curves(Chart& chart, const ChartKind& kind, const RunData& run, size_t number) {
  const Metric* metric = find_metric(run, kind.metric);
  if (metric == nullptr) return;
  const std::string name(kind.metric);
  const auto shown = [&](std::vector<Point> points) {
    for (Point& point : points) point.value *= kind.factor;
    return points;
  };
  chart.curves.push_back({number, kind.style, name, shown(metric->points)});
  if (kind.style == CurveStyle::kRaw) {
    chart.curves.push_back({number, CurveStyle::kLine, "smoothed", shown(metric->smoothed)});
  }
  if (kind.metric != "loss") return;
  if (const Metric* validation = find_metric(run, "val_loss")) {
    chart.curves.push_back({number, CurveStyle::kDots, "validation", validation->points});
  }
}

std::string html_id(std::string_view metric) {
  std::string id = "chart-";
  for (const char c : metric) id += std::isalnum(static_cast<unsigned char>(c)) != 0 ? c : '_';
  return id;
}

Chart make_chart(const ChartKind& kind, const std::vector<RunData>& runs) {
  Chart chart;
  chart.id = html_id(kind.metric);
  chart.title = kind.title;
  chart.unit = kind.unit;
  chart.from_zero = kind.from_zero;
  if (kind.metric == "loss") chart.frame = {.width = 1160, .height = 380};
  for (size_t i = 0; i < runs.size(); ++i) {
    add_curves(chart, kind, runs[i], i);
    for (const int64_t step : runs[i].resumed_at) chart.restarts.emplace_back(i, step);
  }
  return chart;
}

/// The known charts that have a curve, then one for every other column.
std::vector<Chart> make_charts(const std::vector<RunData>& runs) {
  std::vector<Chart> charts;
  std::vector<std::string> others;
  for (const ChartKind& kind : kCharts) {
    charts.push_back(make_chart(kind, runs));
    if (charts.back().curves.empty()) charts.pop_back();
  }
  for (const RunData& run : runs) {
    for (const auto& [name, metric] : run.metrics) {
      const bool known =
          std::any_of(kCharts.begin(), kCharts.end(),
                      [&name = name](const ChartKind& kind) { return kind.metric == name; }) ||
          std::find(kNoChart.begin(), kNoChart.end(), name) != kNoChart.end() ||
          std::find(others.begin(), others.end(), name) != others.end();
      if (known || metric.count == 0) continue;
      others.push_back(name);
      charts.push_back(make_chart({name, name, "", false, CurveStyle::kLine}, runs));
      charts.back().id += fmt::format("-{}", others.size());  // two names may give one id
    }
  }
  return charts;
}

std::string style_sign(CurveStyle style) {
  return fmt::format(
      "<svg class=\"sign r0\" viewBox=\"0 0 22 12\" width=\"22\" height=\"12\" "
      "aria-hidden=\"true\">"
      "<path class=\"curve {0}\" d=\"M1,6H21\"/>{1}</svg>",
      class_name(style),
      style == CurveStyle::kDots ? "<g class=\"dots\"><circle cx=\"11\" cy=\"6\" r=\"3.5\"/></g>"
                                 : "");
}

/// What the styles mean.
std::string style_legend(const Chart& chart) {
  const auto has = [&](CurveStyle style) {
    return std::any_of(chart.curves.begin(), chart.curves.end(),
                       [&](const Curve& curve) { return curve.style == style; });
  };
  if (!has(CurveStyle::kRaw)) return "";
  std::string out = "<li class=\"kind\">" + style_sign(CurveStyle::kRaw) + "each step</li>";
  out += "<li class=\"kind\">" + style_sign(CurveStyle::kLine) + "smoothed</li>";
  if (has(CurveStyle::kDots)) {
    out += "<li class=\"kind\">" + style_sign(CurveStyle::kDots) + "validation</li>";
  }
  if (!chart.restarts.empty()) {
    out +=
        "<li class=\"kind\"><svg class=\"sign\" viewBox=\"0 0 12 12\" width=\"12\" height=\"12\" "
        "aria-hidden=\"true\"><path class=\"restart\" d=\"M2,10h8l-4,-7z\"/></svg>resumed</li>";
  }
  return out;
}

std::string legend(const Chart& chart, const std::vector<RunData>& runs) {
  std::string out;
  if (runs.size() > 1) {
    for (size_t i = 0; i < runs.size(); ++i) {
      out += fmt::format("<li>{}{}</li>", run_sign(i), html_text(runs[i].name));
    }
  }
  // With several runs the large chart says it for all.
  if (runs.size() == 1 || chart.id == "chart-loss") out += style_legend(chart);
  return out.empty() ? "" : "<ul class=\"legend\">" + out + "</ul>";
}

std::string figure(const Chart& chart, const Axis& steps, const std::vector<RunData>& runs) {
  std::string unit = html_text(chart.unit);
  if (value_axis(chart).is_logarithmic()) {
    unit += unit.empty() ? "logarithmic axis" : ", logarithmic axis";
  }
  return fmt::format(
      "<figure class=\"chart\" id=\"{}\"><figcaption><b>{}</b> <span>{}</span>{}</figcaption>"
      "<div class=\"plot\">{}</div></figure>\n",
      chart.id, html_text(chart.title), unit, legend(chart, runs), draw(chart, steps));
}

/// `text` as a JSON string that may stand inside <script>.
std::string json_text(std::string_view text) {
  std::string out;
  for (const char c : nlohmann::json(clean_utf8(text)).dump(-1, ' ', /*ensure_ascii=*/true)) {
    out += c == '<' ? "\\u003c" : std::string(1, c);
  }
  return out;
}

/// `[a,b,...]` of differences between neighbours, the first one from 0: shorter than the values.
template <typename Range, typename Value>
std::string differences_json(const Range& range, const Value& value) {
  std::string out = "[";
  int64_t before = 0;
  for (const auto& item : range) {
    const int64_t now = value(item);
    out += fmt::format("{}{}", out.size() > 1 ? "," : "", now - before);
    before = now;
  }
  return out + "]";
}

std::string curve_json(const Curve& curve) {
  std::string out =
      fmt::format("{{\"run\":{},\"style\":\"{}\",\"label\":{},\"x\":{},\"y\":[", curve.run,
                  class_name(curve.style), json_text(curve.label),
                  differences_json(curve.points, [](const Point& p) { return p.step; }));
  for (size_t i = 0; i < curve.points.size(); ++i) {
    out += fmt::format("{}{:.5g}", i == 0 ? "" : ",", curve.points[i].value);
  }
  return out + "]}";
}

std::string chart_json(const Chart& chart) {
  const Axis values = value_axis(chart);
  const Frame& f = chart.frame;
  std::string out = fmt::format(
      "{{\"id\":\"{}\",\"frame\":[{},{},{},{},{},{}],\"log\":{},\"range\":[{},{}],\"curves\":[",
      chart.id, f.width, f.height, f.left, f.right, f.top, f.bottom, values.is_logarithmic(),
      values.low(), values.high());
  for (size_t i = 0; i < chart.curves.size(); ++i) {
    out += (i == 0 ? "" : ",\n") + curve_json(chart.curves[i]);
  }
  return out + "]}";
}

std::string run_json(const RunData& run) {
  const auto of = [&](auto member) { return differences_json(run.positions, member); };
  // Times in hundredths of a second: a short run's steps must not fall together.
  return fmt::format(
      "{{\"name\":{},\"step\":{},\"tokens\":{},\"hundredths\":{}}}", json_text(run.name),
      of([](const Position& p) { return p.step; }), of([](const Position& p) { return p.tokens; }),
      run.has_elapsed
          ? of([](const Position& p) { return static_cast<int64_t>(p.elapsed_s * 100); })
          : "null");
}

std::string data_json(const std::vector<Chart>& charts, const std::vector<RunData>& runs,
                      const Axis& steps) {
  std::string out = fmt::format("{{\"steps\":[{},{}],\"runs\":[", steps.low(), steps.high());
  for (size_t i = 0; i < runs.size(); ++i) out += (i == 0 ? "" : ",\n") + run_json(runs[i]);
  out += "],\n\"charts\":[";
  for (size_t i = 0; i < charts.size(); ++i) out += (i == 0 ? "" : ",\n") + chart_json(charts[i]);
  return out + "]}";
}

}  // namespace

std::string charts_section(const std::vector<RunData>& runs) {
  int64_t first = runs.front().last.step;
  int64_t last = 0;
  for (const RunData& run : runs) {
    for (const auto& [name, metric] : run.metrics) {
      if (!metric.points.empty()) first = std::min(first, metric.points.front().step);
    }
    last = std::max(last, run.last.step);
  }
  const Axis steps = step_axis(first, last);
  const std::vector<Chart> charts = make_charts(runs);
  std::string out = "<section id=\"charts\"><h2>Curves</h2><div id=\"axis\"></div>\n";
  for (const Chart& chart : charts) out += figure(chart, steps, runs);
  out += "<script type=\"application/json\" id=\"data\">";
  out += data_json(charts, runs, steps);
  return out + "</script></section>\n";
}

}  // namespace rwkv::report
