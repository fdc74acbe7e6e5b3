#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "trainer/report/axis.h"
#include "trainer/report/thinning.h"

namespace rwkv::report {

/// Class of a curve in the picture, and how it is drawn.
enum class CurveStyle {
  kRaw,   // thin and pale: single steps
  kLine,  // strong: smoothed values, or values without noise
  kDots   // joined dots: rare values, such as validations
};

/// One curve of one run.
struct Curve {
  size_t run = 0;
  CurveStyle style = CurveStyle::kLine;
  std::string label;  // for the read-out, plain text
  std::vector<Point> points;
};

/// Sizes in the units of the picture, which are pixels where it is shown at full width.
struct Frame {
  double width = 560;
  double height = 250;
  double left = 60;
  double right = 18;
  double top = 12;
  double bottom = 40;

  [[nodiscard]] double plot_width() const { return width - left - right; }
  [[nodiscard]] double plot_height() const { return height - top - bottom; }
};

/// A picture of curves over steps.
struct Chart {
  std::string id;     // for HTML: letters, digits, - and _
  std::string title;  // plain text
  std::string unit;
  bool from_zero = false;
  Frame frame;
  std::vector<Curve> curves;
  std::vector<std::pair<size_t, int64_t>> restarts;  // run, step
};

/// The value axis: over all points, logarithmic when they are positive and spread over more than a
/// factor of 3 (never with from_zero).
Axis value_axis(const Chart& chart);

/// The step axis of charts whose curves lie within [first, last].
Axis step_axis(int64_t first, int64_t last);

/// The picture as SVG; colours and strokes come from the page's style sheet (classes r0, r1, ...,
/// raw, line, dots).
std::string draw(const Chart& chart, const Axis& steps);

/// The CSS class of a style.
const char* class_name(CurveStyle style);

}  // namespace rwkv::report
