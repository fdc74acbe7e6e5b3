#pragma once

#include "trainer/config.h"
#include "trainer/config_reader.h"

namespace rwkv::trainer {

/// Checks that need more than one field; adds what is wrong to `context.problems`, at the place of
/// the first key of the check that the user wrote. Checks on keys that could not be read are left
/// out.
void check_across_fields(const RunConfig& config, ReadContext& context);

}  // namespace rwkv::trainer
