#include "data/jsonl.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "data/base/error.h"

namespace rwkv::data {
namespace {

/// Takes the text out of what the parser reports, without a tree: depth costs one bit a level.
class TextSax : public nlohmann::json_sax<nlohmann::json> {
 public:
  TextSax(std::string_view key, std::string_view place, int64_t line)
      : key_(key), place_(place), line_(line) {}

  std::string take() {
    if (!found_) refuse("there is no key '{}'", printable(key_, 40));
    return std::move(text_);
  }

  bool start_object(size_t /*size*/) override { return enter(); }
  bool end_object() override { return leave(); }
  bool start_array(size_t /*size*/) override {
    if (depth_ == 0) refuse("the line is a list");
    if (wanted_ && depth_ == 1) {
      in_list_ = true;
      wanted_ = false;
      ++depth_;
      return true;
    }
    return enter();
  }
  bool end_array() override {
    if (depth_ == 2) in_list_ = false;
    return leave();
  }
  bool key(string_t& name) override {
    if (depth_ != 1) return true;
    wanted_ = name == key_;
    if (wanted_ && found_) refuse("the key '{}' is there twice", printable(key_, 40));
    found_ = found_ || wanted_;
    return true;
  }
  bool string(string_t& value) override {
    if (depth_ == 0 || (wanted_ && depth_ == 1)) {
      text_ = std::move(value);
      found_ = true;
      wanted_ = false;
    } else if (in_list_ && depth_ == 2) {
      if (parts_++ > 0) text_ += "\n\n";
      text_ += value;
    }
    return true;
  }
  bool null() override { return other(); }
  bool boolean(bool /*value*/) override { return other(); }
  bool number_integer(number_integer_t /*value*/) override { return other(); }
  bool number_unsigned(number_unsigned_t /*value*/) override { return other(); }
  bool number_float(number_float_t /*value*/, const string_t& /*text*/) override { return other(); }
  bool binary(binary_t& /*value*/) override { return other(); }
  bool parse_error(size_t position, const std::string& /*token*/,
                   const nlohmann::detail::exception& error) override {
    const std::string_view what = error.what();
    const bool surrogate = what.find("surrogate") != std::string_view::npos;
    const bool utf8 = what.find("UTF-8") != std::string_view::npos;
    refuse("{} near its byte {}",
           surrogate ? "half a surrogate pair"
           : utf8    ? "ill-formed UTF-8"
                     : "no valid JSON",
           position);
  }

 private:
  template <typename... Args>
  [[noreturn]] void refuse(fmt::format_string<Args...> format, Args&&... args) const {
    user_error("{}: line {}: {}; each line is an object like {{\"{}\": \"...\"}}", place_, line_,
               fmt::format(format, std::forward<Args>(args)...), printable(key_, 40));
  }

  bool enter() {
    if (is_value_of_key()) refuse("'{}' is no string and no list of strings", printable(key_, 40));
    ++depth_;
    return true;
  }
  bool leave() {
    --depth_;
    return true;
  }
  bool other() {
    if (depth_ == 0) refuse("the line is no object");
    if (is_value_of_key()) refuse("'{}' is no string and no list of strings", printable(key_, 40));
    return true;
  }
  [[nodiscard]] bool is_value_of_key() const {
    return (wanted_ && depth_ == 1) || (in_list_ && depth_ == 2);
  }

  std::string_view key_;
  std::string_view place_;
  int64_t line_;
  std::string text_;
  int64_t depth_ = 0;
  int64_t parts_ = 0;
  bool wanted_ = false;   // the value that comes next, at depth 1, is that of the key
  bool in_list_ = false;  // inside of the list under the key
  bool found_ = false;
};

}  // namespace

bool is_blank_line(std::string_view line) {
  return line.find_first_not_of(" \t\r\n") == std::string_view::npos;
}

std::string jsonl_text(std::string_view line, std::string_view key, std::string_view place,
                       int64_t line_number) {
  TextSax sax(key, place, line_number);
  nlohmann::json::sax_parse(line, &sax);
  return sax.take();
}

}  // namespace rwkv::data
