#pragma once

#include <cmath>
#include <cstdint>
#include <string>
#include <string_view>

#include "data/base/error.h"
#include "model/sampling_fields.h"

namespace rwkv::model {

/// The name of a setting as users write it: with "--" before it, the underscores are hyphens.
inline std::string setting_name(std::string_view prefix, std::string_view name) {
  std::string text = std::string(prefix) + std::string(name);
  if (prefix == "--") {
    for (char& c : text) c = c == '_' ? '-' : c;
  }
  return text;
}

/// A visitor of model/sampling_fields.h that throws UserError for a value outside its limits.
struct SettingCheck {
  std::string_view prefix;

  void operator()(const char* name, double value, const FieldInfo& info) const {
    if (value >= info.low && value <= info.high) return;
    user_error("{}: {} is out of range; use a number from {} to {}", setting_name(prefix, name),
               value, info.low, info.high);
  }
  void operator()(const char* name, int64_t value, const FieldInfo& info) const {
    (*this)(name, static_cast<double>(value), info);
  }
};

}  // namespace rwkv::model
