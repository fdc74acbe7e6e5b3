#pragma once

#include <string>
#include <vector>

namespace rwkv::trainer {

struct RunConfig;

/// One field of a configuration as text.
struct FieldText {
  std::string key;    // dotted path, e.g. schedule.warmup.steps
  std::string value;  // as YAML on one line
  std::string range;  // what it may be, e.g. 1..65536
  std::string help;
};

/// All fields of `config` in the order of the structs.
std::vector<FieldText> list_fields(const RunConfig& config);

/// All fields with their defaults.
const std::vector<FieldText>& default_fields();

}  // namespace rwkv::trainer
