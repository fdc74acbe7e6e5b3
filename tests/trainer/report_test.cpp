#include <cmath>
#include <functional>
#include <limits>
#include <regex>

#include "tests/data/test_files.h"
#include "trainer/report/axis.h"
#include "trainer/report/chart.h"
#include "trainer/report/json_line.h"
#include "trainer/report/palette.h"
#include "trainer/report/thinning.h"
#include "trainer/report/utf8.h"

namespace rwkv::report {
namespace {

TEST(Thinning, ACurveThatFitsIsKeptWhole) {
  MinMaxThinner thinner(100);
  std::vector<Point> all;
  for (int64_t step = 1; step < 100; ++step) {
    all.push_back({step * 50, std::sin(static_cast<double>(step))});
  }
  for (const Point& point : all) thinner.add(point.step, point.value);
  // Bins grow only when there are too many: every 50th step has a bin of its own.
  EXPECT_EQ(thinner.points(), all);
}

TEST(Thinning, SpikesOfOneStepSurviveAMillionStepsInFixedMemory) {
  MinMaxThinner thinner(1000);
  constexpr int64_t kSteps = 1'000'000;
  for (int64_t step = 1; step <= kSteps; ++step) {
    double value = 1 + 0.1 * std::sin(static_cast<double>(step) * 0.7);
    if (step == 333'333) value = 50;
    if (step == 777'777) value = -3;
    thinner.add(step, value);
  }
  const std::vector<Point> points = thinner.points();
  EXPECT_LE(points.size(), 2002U);
  EXPECT_GE(points.size(), 1000U);
  EXPECT_EQ(points.front().step, 1);
  EXPECT_EQ(points.back().step, kSteps);
  int64_t before = 0;
  int spikes = 0;
  for (const Point& point : points) {
    EXPECT_GT(point.step, before);
    before = point.step;
    spikes += point == Point{333'333, 50} || point == Point{777'777, -3} ? 1 : 0;
  }
  EXPECT_EQ(spikes, 2);
}

TEST(Thinning, SmoothingNeitherLagsNorFollowsASpike) {
  MinMaxThinner thinner(2000);
  for (int64_t step = 1; step <= 1500; ++step) {
    const double noise = step % 2 == 0 ? 0.1 : -0.1;
    thinner.add(step, step == 700 ? 1000 : static_cast<double>(step) / 100 + noise);
  }
  const std::vector<Point> points = thinner.smoothed();
  ASSERT_EQ(points.size(), 1500U);
  for (const Point& point : points) {
    // At the end the windows have one side: half a window of lag.
    EXPECT_NEAR(point.value, static_cast<double>(point.step) / 100, point.step < 1470 ? 0.11 : 0.2);
  }
  MinMaxThinner one(100);
  one.add(5, 2);
  EXPECT_EQ(one.smoothed(), (std::vector<Point>{{5, 2}}));
  EXPECT_TRUE(MinMaxThinner(100).smoothed().empty());
}

TEST(Thinning, ItemsStayEvenlySpreadAndTheNewestIsThere) {
  EvenThinner<int> thinner(8);
  EXPECT_TRUE(thinner.items().empty());
  for (int i = 0; i < 1000; ++i) {
    thinner.add(i);
    const std::vector<int> items = thinner.items();
    ASSERT_LE(items.size(), 9U);
    ASSERT_EQ(items.front(), 0);
    ASSERT_EQ(items.back(), i);
    for (size_t k = 2; k + 1 < items.size(); ++k) {
      ASSERT_EQ(items[k] - items[k - 1], items[1] - items[0]);
    }
  }
  EXPECT_EQ(thinner.seen(), 1000U);
}

TEST(Text, InvalidUtf8AndControlCharactersBecomeVisible) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"plain\ttext\n", "plain\ttext\n"},
      {"\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80", "\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80"},
      {"a\xff", "a\xef\xbf\xbd"},                                // no lead byte
      {"\xc3", "\xef\xbf\xbd"},                                  // cut off
      {"\xe2\x82g", "\xef\xbf\xbd\xef\xbf\xbdg"},                // cut off by another character
      {"\xc0\xaf", "\xef\xbf\xbd\xef\xbf\xbd"},                  // overlong
      {"\xe0\x80\xaf", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},  // overlong
      {"\xed\xa0\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},  // surrogate
      {"\xf4\x90\x80\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},  // beyond U+10FFFF
      {std::string("\0\x1b", 2), "\xe2\x90\x80\xe2\x90\x9b"},
      {"\x7f", "\xe2\x90\xa1"},
      {"\xc2\x85", "\xef\xbf\xbd"},      // a control character of two bytes
      {"\xe2\x80\xae", "\xef\xbf\xbd"},  // right-to-left override
      {"a\r\nb\r", "a\nb\xe2\x90\x8d"}};
  for (const auto& [text, clean] : cases) EXPECT_EQ(clean_utf8(text), clean) << text;
  EXPECT_EQ(html_text("</pre><script>\"'&"), "&lt;/pre&gt;&lt;script&gt;&quot;&#39;&amp;");
}

TEST(MetricLines, NumbersNullAndBooleansAreTaken) {
  const auto line = parse_metric_line(
      R"({"step":7,"tokens":900,"loss":1.5,"lr":null,"skipped":true,"note":"x","big":1e39,)"
      R"("nested":{"step":3,"list":[1,2]},"n":-4})");
  ASSERT_TRUE(line);
  EXPECT_EQ(line->step, 7);
  EXPECT_EQ(line->tokens, 900);
  ASSERT_EQ(line->values.size(), 5U);
  EXPECT_EQ(line->values[0], (std::pair<std::string, double>("loss", 1.5)));
  EXPECT_TRUE(std::isnan(line->values[1].second));
  EXPECT_EQ(line->values[2].second, 1);
  EXPECT_TRUE(std::isnan(line->values[3].second));
  EXPECT_EQ(line->values[4].second, -4);
}

TEST(MetricLines, WhatIsNoLineIsRefused) {
  for (const char* text : {"",
                           "{",
                           "{}",
                           "[]",
                           "7",
                           "null",
                           R"({"loss":1})",
                           R"({"step":1)",
                           R"({"step":1} x)",
                           R"({"step":"1"})",
                           R"({"step":1.5})",
                           R"({"step":-1})",
                           R"({"step":null})",
                           R"({"step":9007199254740993})",
                           R"({"step":99999999999999999999})",
                           R"({"step":[1]})",
                           R"({"step":1,"tokens":"many"})",
                           R"([{"step":1}])",
                           "{\"step\":1,\"loss\":nan}",
                           "\x01\xff{\"step\":1}"}) {
    EXPECT_FALSE(parse_metric_line(text)) << text;
  }
}

class Lines : public testing::FilesTest {};

TEST_F(Lines, AreReadWholeHoweverLong) {
  const std::string huge(3 * LineReader::kMaxLineBytes, 'x');
  const auto path = write("log", "one\n\n" + huge + "\nlast\nhalf");
  LineReader reader(path);
  EXPECT_EQ(reader.next(), "one");
  EXPECT_TRUE(reader.whole());
  EXPECT_EQ(reader.next(), "");
  ASSERT_TRUE(reader.next());
  EXPECT_FALSE(reader.whole());
  EXPECT_EQ(reader.next(), "last");
  EXPECT_TRUE(reader.whole());
  EXPECT_EQ(reader.next(), "half");
  EXPECT_FALSE(reader.whole());
  EXPECT_FALSE(reader.next());
  EXPECT_EQ(reader.bytes_read(), reader.size_bytes());
  EXPECT_REFUSED(LineReader(folder_), "no regular file");
  EXPECT_REFUSED(LineReader(folder_ / "absent"), "no such file");
}

TEST(Numbers, AreShort) {
  const std::vector<std::pair<double, std::string>> cases = {
      {0, "0"},           {1400, "1400"},     {12500, "12.5k"},      {2867200, "2.87M"},
      {1e6, "1M"},        {999999, "1M"},     {3e9, "3B"},           {0.003, "0.003"},
      {0.0015, "0.0015"}, {0.0003, "0.0003"}, {1.23456, "1.235"},    {-20000, "-20k"},
      {1e20, "1e20"},     {9999.6, "10k"},    {0.00099996, "0.001"}, {3e-5, "3e-5"}};
  for (const auto& [value, text] : cases) EXPECT_EQ(short_number(value), text);
}

std::vector<std::string> labels(const Axis& axis, int count) {
  std::vector<std::string> out;
  double before = -1e-6;
  for (const auto& tick : axis.ticks(count)) {
    EXPECT_GT(tick.position, before) << tick.label;
    EXPECT_LE(tick.position, 1 + 1e-6) << tick.label;
    before = tick.position;
    out.push_back(tick.label);
  }
  return out;
}

TEST(Axes, TicksStandAtRoundValues) {
  using Labels = std::vector<std::string>;
  EXPECT_EQ(labels(Axis::linear(0, 1400), 8),
            (Labels{"0", "200", "400", "600", "800", "1000", "1200", "1400"}));
  EXPECT_EQ(labels(Axis::linear(-1.2, 2.1), 4), (Labels{"-1", "0", "1", "2"}));
  EXPECT_EQ(labels(Axis::linear(2.9e-4, 3.1e-3), 6),
            (Labels{"0.0005", "0.001", "0.0015", "0.002", "0.0025", "0.003"}));
  EXPECT_EQ(labels(Axis::logarithmic(1.1, 5.6), 9), (Labels{"1.5", "2", "3", "4", "5"}));
  EXPECT_EQ(labels(Axis::logarithmic(0.001, 1000), 7),
            (Labels{"0.001", "0.01", "0.1", "1", "10", "100", "1000"}));
  EXPECT_EQ(labels(Axis::logarithmic(1e-20, 1e20), 6).size(), 6U);
  EXPECT_EQ(labels(Axis::linear(0, 1), 5).size(), 6U);
  EXPECT_GE(labels(Axis::linear(5, 5), 5).size(), 3U);  // no span
  EXPECT_GE(labels(Axis::linear(0, 0), 5).size(), 3U);
  EXPECT_GE(labels(Axis::logarithmic(2, 2), 5).size(), 2U);
  EXPECT_GE(labels(Axis::linear(-3e38, 3e38), 5).size(), 3U);
}

Chart simple_chart(std::vector<Point> points) {
  Chart chart;
  chart.id = "chart-test";
  chart.title = "<Test>";
  chart.curves.push_back({0, CurveStyle::kLine, "test", std::move(points)});
  return chart;
}

TEST(Charts, EveryPointOfACurveLiesInsideThePlot) {
  std::vector<Point> points;
  for (int64_t step = 1; step <= 500; ++step) {
    points.push_back({step, std::exp(3 * std::sin(static_cast<double>(step)))});
  }
  const Chart chart = simple_chart(points);
  EXPECT_TRUE(value_axis(chart).is_logarithmic());
  const std::string svg = draw(chart, step_axis(1, 500));
  EXPECT_NE(svg.find("&lt;Test&gt;"), std::string::npos);
  const std::regex path("class=\"curve line r0\" data-run=\"0\" d=\"M([^\"]*)\"");
  std::smatch match;
  ASSERT_TRUE(std::regex_search(svg, match, path));
  const std::string data = match[1];
  const std::regex coordinates("([-0-9.]+),([-0-9.]+)");
  int64_t count = 0;
  double x_before = 0;
  const Frame& f = chart.frame;
  for (std::sregex_iterator it(data.begin(), data.end(), coordinates), end; it != end; ++it) {
    const double x = std::stod((*it)[1]);
    const double y = std::stod((*it)[2]);
    EXPECT_GE(x, x_before);
    EXPECT_LE(x, f.width - f.right);
    EXPECT_GE(y, f.top);
    EXPECT_LE(y, f.height - f.bottom);
    x_before = x;
    ++count;
  }
  EXPECT_EQ(count, 500);
}

TEST(Charts, HigherValuesAreHigherAndTheAxesFit) {
  const Chart chart = simple_chart({{0, 1.0}, {100, 2.0}});
  const std::string svg = draw(chart, step_axis(0, 100));
  // 4 % of margin below and above, left and right edge of the plot
  EXPECT_NE(svg.find("d=\"M60,202.7L542,19.3\""), std::string::npos) << svg;
}

TEST(Charts, DegenerateCurvesDraw) {
  for (const auto& points : std::vector<std::vector<Point>>{{},
                                                            {{5, 1.0}},
                                                            {{5, 0.0}, {6, 0.0}},
                                                            {{5, -3e38}, {6, 3e38}},
                                                            {{0, 1e-300}, {1, 1e300}}}) {
    const std::string svg = draw(simple_chart(points), step_axis(0, 10));
    EXPECT_EQ(svg.find("nan"), std::string::npos) << svg;
    EXPECT_EQ(svg.find("inf"), std::string::npos) << svg;
    EXPECT_TRUE(svg.ends_with("</svg>"));
  }
}

TEST(Charts, TheValueAxisIsLogarithmicForPositiveValuesFarApart) {
  EXPECT_FALSE(value_axis(simple_chart({{1, 1.0}, {2, 2.9}})).is_logarithmic());
  EXPECT_TRUE(value_axis(simple_chart({{1, 1.0}, {2, 3.1}})).is_logarithmic());
  EXPECT_FALSE(value_axis(simple_chart({{1, 0.0}, {2, 100}})).is_logarithmic());
  Chart from_zero = simple_chart({{1, 1.0}, {2, 100}});
  from_zero.from_zero = true;
  EXPECT_EQ(value_axis(from_zero).low(), 0);
}

// Colours, in linear RGB.
using Rgb = std::array<double, 3>;

Rgb linear_rgb(const std::string& hex) {
  Rgb out{};
  for (size_t i = 0; i < 3; ++i) {
    const double c = std::stoi(hex.substr(1 + 2 * i, 2), nullptr, 16) / 255.0;
    out[i] = c <= 0.04045 ? c / 12.92 : std::pow((c + 0.055) / 1.055, 2.4);
  }
  return out;
}

/// Coordinates in OKLab (Ottosson 2020), where distances are about as people see them.
Rgb oklab(const Rgb& c) {
  const double l = std::cbrt(0.4122214708 * c[0] + 0.5363325363 * c[1] + 0.0514459929 * c[2]);
  const double m = std::cbrt(0.2119034982 * c[0] + 0.6806995451 * c[1] + 0.1073969566 * c[2]);
  const double s = std::cbrt(0.0883024619 * c[0] + 0.2817188376 * c[1] + 0.6299787005 * c[2]);
  return {0.2104542553 * l + 0.7936177850 * m - 0.0040720468 * s,
          1.9779984951 * l - 2.4285922050 * m + 0.4505937099 * s,
          0.0259040371 * l + 0.7827717662 * m - 0.8086757660 * s};
}

double luminance(const Rgb& c) { return 0.2126 * c[0] + 0.7152 * c[1] + 0.0722 * c[2]; }

/// How people with normal sight, protanopia, deuteranopia and tritanopia see colours (Machado,
/// Oliveira and Fernandes 2009, severity 1).
constexpr double kSight[4][3][3] = {{{1, 0, 0}, {0, 1, 0}, {0, 0, 1}},
                                    {{0.152286, 1.052583, -0.204868},
                                     {0.114503, 0.786281, 0.099216},
                                     {-0.003882, -0.048116, 1.051998}},
                                    {{0.367322, 0.860646, -0.227968},
                                     {0.280085, 0.672501, 0.047413},
                                     {-0.011820, 0.042940, 0.968881}},
                                    {{1.255528, -0.076749, -0.178779},
                                     {-0.078411, 0.930809, 0.147602},
                                     {0.004733, 0.691367, 0.303900}}};

Rgb seen(const Rgb& c, const double (&sight)[3][3]) {
  Rgb out{};
  for (size_t i = 0; i < 3; ++i) {
    out[i] = std::clamp(sight[i][0] * c[0] + sight[i][1] * c[1] + sight[i][2] * c[2], 0.0, 1.0);
  }
  return out;
}

template <typename Palette>
void check_palette(const Palette& palette, const char* background) {
  const double back = luminance(linear_rgb(background)) + 0.05;
  for (size_t i = 0; i < palette.size(); ++i) {
    const double own = luminance(linear_rgb(palette[i])) + 0.05;
    EXPECT_GT(std::max(own / back, back / own), 3) << palette[i];
    for (size_t j = 0; j < i; ++j) {
      for (const auto& sight : kSight) {
        const Rgb a = oklab(seen(linear_rgb(palette[i]), sight));
        const Rgb b = oklab(seen(linear_rgb(palette[j]), sight));
        EXPECT_GT(std::hypot(a[0] - b[0], a[1] - b[1], a[2] - b[2]), 0.13)
            << palette[i] << " and " << palette[j];
      }
    }
  }
}

TEST(Palette, ColoursStayApartForEveryEyeAndStandOutFromTheBackground) {
  check_palette(kLightPalette, kLightBackground);
  check_palette(kDarkPalette, kDarkBackground);
}

}  // namespace
}  // namespace rwkv::report
