#pragma once

#include "trainer/config.h"
#include "trainer/exit_code.h"
#include "trainer/trainer.h"

namespace rwkv::trainer {

/// Trains together with the processes that a launcher started beside this one (see
/// read_environment()), or alone without a launcher. Whatever this rank throws, the others learn
/// the reason. Log lines name the rank; of ranks above 0 only warnings are shown.
ExitCode train_as_rank(const RunConfig& config, TrainOptions options,
                       bool allow_public_address = false);

}  // namespace rwkv::trainer
