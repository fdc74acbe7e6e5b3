#include "trainer/report/json_line.h"

#include <array>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>

#include "data/base/error.h"

namespace rwkv::report {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr int64_t kMaxInteger = int64_t{1} << 53;

/// Takes the columns of one flat object out of the parser's events; no tree is built.
class ColumnReader : public nlohmann::json_sax<json> {
 public:
  explicit ColumnReader(MetricLine& line) : line_(line) {}

  [[nodiscard]] bool has_step() const { return has_step_; }

  bool null() override { return take(std::numeric_limits<double>::quiet_NaN()); }
  bool boolean(bool value) override { return take(value ? 1.0 : 0.0); }
  bool number_integer(int64_t value) override {
    return is_counter() ? false : take(static_cast<double>(value));  // negative
  }
  bool number_unsigned(uint64_t value) override {
    if (!is_counter()) return take(static_cast<double>(value));
    if (value > static_cast<uint64_t>(kMaxInteger)) return false;
    if (key_ == "step") {
      line_.step = static_cast<int64_t>(value);
      has_step_ = true;
    } else {
      line_.tokens = static_cast<int64_t>(value);
    }
    return true;
  }
  bool number_float(double value, const std::string&) override {
    return is_counter() ? false : take(value);
  }
  bool string(std::string&) override { return !is_counter(); }
  bool binary(json::binary_t&) override { return false; }
  bool start_object(size_t) override { return ++depth_ == 1 || !is_counter(); }
  bool end_object() override {
    --depth_;
    return true;
  }
  bool start_array(size_t) override { return ++depth_ > 1 && !is_counter(); }
  bool end_array() override { return end_object(); }
  bool key(std::string& key) override {
    if (depth_ == 1) key_ = key;
    return true;
  }
  bool parse_error(size_t, const std::string&, const nlohmann::detail::exception&) override {
    return false;
  }

 private:
  [[nodiscard]] bool is_counter() const {
    return depth_ == 1 && (key_ == "step" || key_ == "tokens");
  }
  bool take(double value) {
    if (depth_ == 0 || is_counter()) return false;
    if (depth_ > 1) return true;
    const bool fits = std::abs(value) <= static_cast<double>(std::numeric_limits<float>::max());
    line_.values.emplace_back(key_, fits ? value : std::numeric_limits<double>::quiet_NaN());
    return true;
  }

  MetricLine& line_;
  std::string key_;
  int depth_ = 0;
  bool has_step_ = false;
};

}  // namespace

LineReader::LineReader(const fs::path& path) : path_(path), file_(nullptr, std::fclose) {
  std::error_code error;
  if (!fs::is_regular_file(path, error)) {
    user_error("{}: {}", printable(path.string()),
               fs::exists(path, error) ? "is no regular file" : "there is no such file");
  }
  file_.reset(std::fopen(path.c_str(), "rbe"));
  if (!file_) {
    user_error("cannot read {}: {}", printable(path.string()), std::strerror(errno));
  }
  size_bytes_ = static_cast<int64_t>(fs::file_size(path, error));
}

bool LineReader::refill() {
  buffer_.resize(size_t{1} << 16);
  const size_t n = std::fread(buffer_.data(), 1, buffer_.size(), file_.get());
  if (n == 0 && std::ferror(file_.get()) != 0) {
    user_error("cannot read {}: {}", printable(path_.string()), std::strerror(errno));
  }
  buffer_.resize(n);
  position_ = 0;
  return n > 0;
}

std::optional<std::string_view> LineReader::next() {
  line_.clear();
  whole_ = true;
  bool any = false;
  while (position_ < buffer_.size() || refill()) {
    any = true;
    const std::string_view rest = std::string_view(buffer_).substr(position_);
    const size_t end = rest.find('\n');
    const std::string_view part = rest.substr(0, end);
    const size_t room = kMaxLineBytes - line_.size();
    if (part.size() > room) whole_ = false;
    line_ += part.substr(0, room);
    const size_t used = end == std::string_view::npos ? rest.size() : end + 1;
    position_ += used;
    bytes_read_ += static_cast<int64_t>(used);
    if (end != std::string_view::npos) return line_;
  }
  whole_ = false;
  if (!any) return std::nullopt;
  return line_;
}

std::optional<MetricLine> parse_metric_line(std::string_view line) {
  MetricLine result;
  ColumnReader reader(result);
  if (!json::sax_parse(line, &reader) || !reader.has_step()) return std::nullopt;
  return result;
}

}  // namespace rwkv::report
