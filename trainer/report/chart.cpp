#include "trainer/report/chart.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "trainer/report/palette.h"
#include "trainer/report/utf8.h"

namespace rwkv::report {
namespace {

constexpr size_t kColours = kLightPalette.size();

/// Where values lie in the picture.
struct Scales {
  const Frame& frame;
  const Axis& steps;
  const Axis& values;

  [[nodiscard]] double x(double position) const {
    return frame.left + position * frame.plot_width();
  }
  [[nodiscard]] double y(double position) const {
    return frame.top + (1 - position) * frame.plot_height();
  }
  [[nodiscard]] double x_of(const Point& p) const {
    return x(steps.position(static_cast<double>(p.step)));
  }
  [[nodiscard]] double y_of(const Point& p) const { return y(values.position(p.value)); }
};

/// A coordinate with one decimal at most.
std::string coordinate(double value) {
  std::string text = fmt::format("{:.1f}", value);
  if (text.ends_with(".0")) text.resize(text.size() - 2);
  return text == "-0" ? "0" : text;
}

std::string path_data(const std::vector<Point>& points, const Scales& scales) {
  std::string data;
  std::string before;
  for (const Point& point : points) {
    const std::string here = coordinate(scales.x_of(point)) + "," + coordinate(scales.y_of(point));
    if (here == before) continue;
    data += (data.empty() ? "M" : "L") + here;
    before = here;
  }
  if (points.size() == 1) data += "h0";  // a dot by the round ends of its stroke
  return data;
}

std::string classes(const Curve& curve) {
  return fmt::format("{} r{}{}", class_name(curve.style), curve.run % kColours,
                     curve.run >= kColours ? " again" : "");
}

void draw_grid(std::string& out, const Chart& chart, const Scales& scales) {
  const Frame& f = chart.frame;
  const double right = f.width - f.right;
  const double bottom = f.height - f.bottom;
  out += "<g class=\"grid\">";
  for (const auto& tick : scales.values.ticks(static_cast<int>(f.plot_height() / 40) + 1)) {
    const std::string y = coordinate(scales.y(tick.position));
    out += fmt::format(
        "<path d=\"M{0},{2}H{1}\"/><text x=\"{3}\" y=\"{2}\" dy=\".35em\" "
        "text-anchor=\"end\">{4}</text>",
        coordinate(f.left), coordinate(right), y, coordinate(f.left - 8), tick.label);
  }
  out += "</g><g class=\"steps\">";
  for (const auto& tick : scales.steps.ticks(static_cast<int>(f.plot_width() / 65))) {
    const std::string x = coordinate(scales.x(tick.position));
    out += fmt::format(
        "<path d=\"M{0},{1}v5\"/><text x=\"{0}\" y=\"{2}\" "
        "text-anchor=\"middle\">{3}</text>",
        x, coordinate(bottom), coordinate(bottom + 18), tick.label);
  }
  out += fmt::format("<text class=\"name\" x=\"{}\" y=\"{}\" text-anchor=\"end\">step</text></g>",
                     coordinate(right), coordinate(f.height - 4));
  out += fmt::format("<path class=\"base\" d=\"M{},{}H{}\"/>", coordinate(f.left),
                     coordinate(bottom), coordinate(right));
}

double chart_middle(const Frame& frame) { return frame.left + frame.plot_width() / 2; }

void draw_curve(std::string& out, const Curve& curve, const Scales& scales) {
  if (curve.points.empty()) return;
  out += fmt::format("<path class=\"curve {}\" data-run=\"{}\" d=\"{}\"/>", classes(curve),
                     curve.run, path_data(curve.points, scales));
  constexpr size_t kMaxDots = 60;  // more would touch each other
  if (curve.style != CurveStyle::kDots || curve.points.size() > kMaxDots) return;
  out += fmt::format("<g class=\"{}\">", classes(curve));
  for (const Point& point : curve.points) {
    out += fmt::format("<circle cx=\"{}\" cy=\"{}\" r=\"3.5\"/>", coordinate(scales.x_of(point)),
                       coordinate(scales.y_of(point)));
  }
  if (curve.points.size() == 1) {
    // Alone, a dot says nothing without its value.
    const Point& point = curve.points.front();
    const double x = scales.x_of(point);
    const bool at_right = x > chart_middle(scales.frame);
    out += fmt::format(
        "<text x=\"{}\" y=\"{}\" dx=\"{}\" dy=\"-.6em\" text-anchor=\"{}\">{:.4g}</text>",
        coordinate(x), coordinate(scales.y_of(point)), at_right ? -6 : 6,
        at_right ? "end" : "start", point.value);
  }
  out += "</g>";
}

/// Small triangles on the step axis where a run went on after a stop.
void draw_restarts(std::string& out, const Chart& chart, const Scales& scales) {
  const double y = chart.frame.height - chart.frame.bottom;
  for (const auto& [run, step] : chart.restarts) {
    out += fmt::format(
        "<path class=\"restart r{}\" data-step=\"{}\" data-run=\"{}\" "
        "transform=\"translate({},{})\" "
        "d=\"M-4,0h8l-4,-7z\"><title>resumed after step {}</title></path>",
        run % kColours, step, run, coordinate(scales.x_of({step, 0})), coordinate(y), step);
  }
}

}  // namespace

const char* class_name(CurveStyle style) {
  switch (style) {
    case CurveStyle::kRaw:
      return "raw";
    case CurveStyle::kLine:
      return "line";
    case CurveStyle::kDots:
      return "dots";
  }
  return "";
}

Axis value_axis(const Chart& chart) {
  double low = std::numeric_limits<double>::infinity();
  double high = -low;
  for (const Curve& curve : chart.curves) {
    for (const Point& point : curve.points) {
      low = std::min(low, point.value);
      high = std::max(high, point.value);
    }
  }
  if (low > high) return Axis::linear(0, 1);
  if (chart.from_zero && low >= 0) return Axis::linear(0, high > 0 ? high * 1.05 : 1);
  constexpr double kMargin = 0.04;
  constexpr double kLeast = 1e-30;  // below, a decade more or less says nothing
  if (low > kLeast && high > 3 * low) {
    const double margin = std::exp((std::log(high) - std::log(low)) * kMargin);
    return Axis::logarithmic(low / margin, high * margin);
  }
  const double margin = (high - low) * kMargin;
  return Axis::linear(low - margin, high + margin);
}

Axis step_axis(int64_t first, int64_t last) {
  const bool from_start = first <= last / 20 + 1;
  return Axis::linear(from_start ? 0.0 : static_cast<double>(first), static_cast<double>(last));
}

std::string draw(const Chart& chart, const Axis& steps) {
  const Axis values = value_axis(chart);
  const Frame& f = chart.frame;
  const Scales scales{f, steps, values};
  std::string out = fmt::format(
      "<svg viewBox=\"0 0 {0} {1}\" width=\"{0}\" height=\"{1}\" role=\"img\" aria-label=\"{2}\">",
      coordinate(f.width), coordinate(f.height), html_text(chart.title + " over steps"));
  out += fmt::format(
      "<clipPath id=\"clip-{}\"><rect x=\"{}\" y=\"{}\" width=\"{}\" "
      "height=\"{}\"/></clipPath>",
      chart.id, coordinate(f.left - 5), coordinate(f.top - 5), coordinate(f.plot_width() + 10),
      coordinate(f.plot_height() + 10));
  draw_grid(out, chart, scales);
  out += fmt::format("<g class=\"curves\" clip-path=\"url(#clip-{})\">", chart.id);
  // Pale ones first, so that no run's noise hides another's line.
  for (const CurveStyle style : {CurveStyle::kRaw, CurveStyle::kLine, CurveStyle::kDots}) {
    for (const Curve& curve : chart.curves) {
      if (curve.style == style) draw_curve(out, curve, scales);
    }
  }
  draw_restarts(out, chart, scales);
  out += "</g></svg>";
  return out;
}

}  // namespace rwkv::report
