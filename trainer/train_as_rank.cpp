#include "trainer/train_as_rank.h"

#include <spdlog/spdlog.h>

#include <chrono>
#include <exception>
#include <memory>
#include <utility>

#include "trainer/distributed/environment.h"
#include "trainer/distributed/rank_group.h"
#include "trainer/version.h"

namespace rwkv::trainer {
namespace {

std::shared_ptr<RankGroup> join_group(const RunConfig& config, bool allow_public_address) {
  const RankEnvironment environment = environment_of_this_process();
  if (environment.world_size > 1) {
    spdlog::set_pattern(fmt::format("[%H:%M:%S] rank {}: %^%v%$", environment.rank));
    if (environment.rank > 0) spdlog::set_level(spdlog::level::warn);
  }
  const BuildFacts build = build_facts();
  return std::make_shared<RankGroup>(
      environment,
      GroupOptions{.timeout = std::chrono::seconds(config.distributed.timeout_s),
                   .allow_public_address = allow_public_address,
                   .build = fmt::format("{}, {}, {}", build.version, build.compiler, build.flags)});
}

/// Where rank 0 holds the store, it stays until the others have read why all of them stop.
void finish_after_mistake(RankGroup& group) {
  try {
    group.finish();
  } catch (const PeerLostError&) {
    return;  // they stop for the same reason
  }
}

}  // namespace

ExitCode train_as_rank(const RunConfig& config, TrainOptions options, bool allow_public_address) {
  const std::shared_ptr<RankGroup> shared = join_group(config, allow_public_address);
  RankGroup& group = *shared;
  options.group = shared;
  try {
    const ExitCode code = Trainer(config, std::move(options)).run();
    group.finish();
    return code;
  } catch (const PeerLostError&) {
    throw;
  } catch (const CommonError&) {
    finish_after_mistake(group);
    if (group.is_main()) throw;
    return kUserMistake;
  } catch (const NotFiniteError&) {  // all ranks stop at the same step
    finish_after_mistake(group);
    if (group.is_main()) throw;
    return kNotFinite;
  } catch (const std::exception& error) {
    group.leave(error.what());
    throw;
  }
}

}  // namespace rwkv::trainer
