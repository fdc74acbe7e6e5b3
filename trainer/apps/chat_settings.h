#pragma once

#include <string>
#include <string_view>

#include "model/chat.h"

namespace rwkv::apps {

/// Changes one setting of a running chat: the numbers of model/sampling_fields.h, sampler, tokens
/// and seed. `name` may be spelt with hyphens. Throws UserError for an unknown name or a bad value;
/// then nothing has changed.
void change_setting(model::GenerateOptions& options, std::string_view name, std::string_view value);

/// All settings with their values, one a line.
std::string list_settings(const model::GenerateOptions& options);

}  // namespace rwkv::apps
