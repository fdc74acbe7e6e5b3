#pragma once

#include <CLI/CLI.hpp>

#include "model/write_text.h"

namespace rwkv::apps {

/// Settings as the command line holds them before they are checked.
struct SamplingArguments {
  model::SamplingConfig sampling;
  model::PenaltyConfig penalties;
  std::string sampler = "chatrwkv";
  std::string penalty_weight = "not_digits";
  int64_t tokens = 200;
  int64_t seed = 42;
};

/// Adds --tokens, --seed, --sampler and one option for each number of model/sampling_fields.h,
/// spelt with hyphens or underscores.
void add_sampling_options(CLI::App& command, SamplingArguments& arguments);

/// The checked settings. Throws UserError that names the option.
model::GenerateOptions generate_options(const SamplingArguments& arguments);

}  // namespace rwkv::apps
