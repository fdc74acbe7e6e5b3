#include "trainer/weight_curves.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>
#include <vector>

#include "data/base/error.h"
#include "model/formats/layout.h"

namespace rwkv::trainer {
namespace {

constexpr int kWidth = 900;
constexpr int kMargin = 70;
constexpr int kPlotWidth = kWidth - 2 * kMargin - 60;  // room for the names of layers at the right
constexpr int kDecayHeight = 320;
constexpr int kRowHeight = 12;
constexpr int kPoints = 160;        // along the channels
constexpr double kShortest = 1e-2;  // half-lives shown, in tokens
constexpr double kLongest = 1e4;

std::vector<float> sorted_values(const formats::TensorFile& file,
                                 const formats::TensorInfo& tensor) {
  std::vector<float> values(static_cast<size_t>(tensor.numel()));
  file.read(tensor, formats::DType::f32, std::as_writable_bytes(std::span(values)));
  std::erase_if(values, [](float value) { return !std::isfinite(value); });
  std::sort(values.begin(), values.end());
  return values;
}

/// The value at a fraction of a sorted list.
double quantile(const std::vector<float>& sorted, double fraction) {
  const double place = fraction * static_cast<double>(sorted.size() - 1);
  const auto low = static_cast<size_t>(place);
  const size_t high = std::min(low + 1, sorted.size() - 1);
  const double part = place - static_cast<double>(low);
  return static_cast<double>(sorted[low]) * (1 - part) + static_cast<double>(sorted[high]) * part;
}

/// From blue (the first layer) to red (the last).
std::string layer_colour(int64_t layer, int64_t layers) {
  const double depth =
      layers > 1 ? static_cast<double>(layer) / static_cast<double>(layers - 1) : 0.0;
  return fmt::format("hsl({:.0f},70%,45%)", 240.0 * (1.0 - depth));
}

class CurvesPicture {
 public:
  CurvesPicture(const formats::TensorFile& file, int64_t layers) : file_(file), layers_(layers) {}

  std::string draw(const std::string& title);

 private:
  void text(double x, double y, std::string_view anchor, const std::string& what, int size = 11);
  void decay_panel();
  void decay_axis();
  void mix_panel(const std::string& name);
  static double decay_y(double half_life);

  const formats::TensorFile& file_;
  int64_t layers_;
  double top_ = 0;  // of the present panel
  std::string out_;
};

void CurvesPicture::text(double x, double y, std::string_view anchor, const std::string& what,
                         int size) {
  out_ +=
      fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\" font-size=\"{}\">{}</text>\n",
                  x, y, anchor, size, what);
}

double CurvesPicture::decay_y(double half_life) {
  const double shown = std::clamp(half_life, kShortest, kLongest);
  return kDecayHeight * (std::log(kLongest) - std::log(shown)) /
         (std::log(kLongest) - std::log(kShortest));
}

void CurvesPicture::decay_axis() {
  for (double tokens = kShortest; tokens <= kLongest * 1.01; tokens *= 10) {
    const double y = top_ + decay_y(tokens);
    out_ += fmt::format("<line x1=\"{}\" y1=\"{:.1f}\" x2=\"{}\" y2=\"{:.1f}\" stroke=\"#ddd\"/>\n",
                        kMargin, y, kMargin + kPlotWidth, y);
    text(kMargin - 6, y + 4, "end", fmt::format("{:g}", tokens));
  }
  text(kMargin, top_ - 8, "start",
       "half-life of the memory in tokens, ln 2 / exp(time_decay); channels of a layer sorted", 13);
}

void CurvesPicture::decay_panel() {
  decay_axis();
  text(kMargin + kPlotWidth + 12, top_ - 8, "start", "layer", 11);
  for (int64_t layer = 0; layer < layers_; ++layer) {
    const auto* tensor = file_.find(fmt::format("blocks.{}.att.time_decay", layer));
    if (tensor == nullptr || tensor->numel() == 0) continue;  // block 0 with pre_ffn
    const std::vector<float> decay = sorted_values(file_, *tensor);
    std::string points;
    for (int i = 0; i < kPoints; ++i) {
      const double fraction = static_cast<double>(i) / (kPoints - 1);
      const double half_life = std::numbers::ln2 / std::exp(quantile(decay, 1 - fraction));
      points +=
          fmt::format("{:.1f},{:.1f} ", kMargin + fraction * kPlotWidth, top_ + decay_y(half_life));
    }
    out_ += fmt::format(
        "<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"1.5\">"
        "<title>layer {}</title></polyline>\n",
        points, layer_colour(layer, layers_), layer);
    const double y =
        top_ + kDecayHeight * (static_cast<double>(layer) + 0.5) / static_cast<double>(layers_);
    out_ += fmt::format("<rect x=\"{}\" y=\"{:.1f}\" width=\"10\" height=\"6\" fill=\"{}\"/>\n",
                        kMargin + kPlotWidth + 12, y - 3, layer_colour(layer, layers_));
    if (layers_ <= 40) text(kMargin + kPlotWidth + 28, y + 3, "start", std::to_string(layer), 9);
  }
  top_ += kDecayHeight + 50;
}

/// One row of cells a layer, white (0) to dark blue (1); values beyond are shown as the ends.
void CurvesPicture::mix_panel(const std::string& name) {
  text(kMargin, top_ - 8, "start", name + "; white 0 = the last token only, dark 1 = this one only",
       13);
  text(kMargin - 6, top_ - 8, "end", "layer", 11);
  const double cell = static_cast<double>(kPlotWidth) / kPoints;
  for (int64_t layer = 0; layer < layers_; ++layer) {
    const double y = top_ + static_cast<double>(layer * kRowHeight);
    text(kMargin - 6, y + kRowHeight - 3, "end", std::to_string(layer), 9);
    const auto* tensor = file_.find(fmt::format("blocks.{}.{}", layer, name));
    if (tensor == nullptr || tensor->numel() == 0) continue;
    const std::vector<float> mix = sorted_values(file_, *tensor);
    for (int i = 0; i < kPoints; ++i) {
      const double value =
          std::clamp(quantile(mix, static_cast<double>(i) / (kPoints - 1)), 0.0, 1.0);
      out_ += fmt::format(
          "<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.2f}\" height=\"{}\" "
          "fill=\"hsl(215,60%,{:.0f}%)\"/>\n",
          kMargin + i * cell, y, cell + 0.3, kRowHeight - 1, 97 - 70 * value);
    }
  }
  top_ += static_cast<double>(layers_ * kRowHeight) + 40;
}

std::string CurvesPicture::draw(const std::string& title) {
  top_ = 70;
  text(kMargin, 28, "start", title, 15);
  decay_panel();
  for (const char* name :
       {"att.time_mix_k", "att.time_mix_v", "att.time_mix_r", "ffn.time_mix_k", "ffn.time_mix_r"}) {
    mix_panel(name);
  }
  return fmt::format(
             "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0}\" height=\"{1:.0f}\" "
             "viewBox=\"0 0 {0} {1:.0f}\" font-family=\"sans-serif\">\n"
             "<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n",
             kWidth, top_) +
         out_ + "</svg>\n";
}

}  // namespace

std::string weight_curves_svg(const formats::TensorFile& file) {
  const auto layout = formats::recognise_rwkv(formats::shapes_of(file.tensors()));
  if (!layout || layout->version != "4") {
    user_error("{}: holds no RWKV-4, whose time_decay and time_mix could be drawn", file.name());
  }
  return CurvesPicture(file, layout->n_layer).draw(describe(*layout));
}

}  // namespace rwkv::trainer
