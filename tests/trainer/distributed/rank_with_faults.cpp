// rank_with_faults CONFIG.yaml FAULT[:RANK[:STEP]]: trains as `rwkv train` does, but does something
// to itself before a step, in the first attempt of a launcher only.
// tests/apps/distributed_faults_test runs it.
#include <fmt/format.h>
#include <sys/resource.h>
#include <torch/torch.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <sstream>
#include <thread>

#include "data/base/error.h"
#include "trainer/distributed/environment.h"
#include "trainer/distributed/supervisor.h"
#include "trainer/train_as_rank.h"

namespace rwkv::trainer {
namespace {

struct Fault {
  std::string kind;
  int64_t rank = 1;
  int64_t step = 6;
};

Fault parse_fault(const std::string& text) {
  Fault fault;
  std::istringstream parts(text);
  std::getline(parts, fault.kind, ':');
  std::string number;
  if (std::getline(parts, number, ':')) fault.rank = std::stoll(number);
  if (std::getline(parts, number, ':')) fault.step = std::stoll(number);
  return fault;
}

at::Tensor some_weights(Trainer& trainer) {
  return trainer.model().named_parameters()["blocks.0.att.key.weight"].detach();
}

void happen(const Fault& fault, Trainer& trainer) {
  const std::string& kind = fault.kind;
  if (kind == "kill") ::kill(::getpid(), SIGKILL);
  if (kind == "stop") ::kill(::getpid(), SIGSTOP);
  if (kind == "term") ::kill(::getpid(), SIGTERM);
  if (kind == "hang") std::this_thread::sleep_for(std::chrono::hours(1));
  if (kind == "slow") std::this_thread::sleep_for(std::chrono::milliseconds(2000));
  if (kind == "nan") some_weights(trainer).view({-1})[0] = NAN;
  if (kind == "flip") {
    auto* bytes = static_cast<unsigned char*>(some_weights(trainer).mutable_data_ptr());
    bytes[1] = static_cast<unsigned char>(bytes[1] ^ 1U);
  }
  if (kind == "error") user_error("a reason of its own; remove the fault");
  if (kind == "disk") {  // as a full disk would: no file grows beyond this
    const rlimit none{1000, 1000};
    ::setrlimit(RLIMIT_FSIZE, &none);
  }
}

int run(const char* config_file, const std::string& fault_text) {
  const Fault fault = parse_fault(fault_text);
  const RankEnvironment environment = environment_of_this_process();
  std::vector<std::string> overrides;
  if (fault.kind == "config" && environment.rank == fault.rank) {
    overrides.emplace_back("optimizer.grad_clip=0.5");
  }
  if (fault.kind == "data" && environment.rank == fault.rank) {
    overrides.emplace_back("data.path=other.txt");
  }
  const RunConfig config = load_run_config(config_file, overrides);
  TrainOptions options;
  options.before_step = [&](Trainer& trainer) {
    const bool now = trainer.progress().step + 1 == fault.step;
    if (now && environment.rank == fault.rank && environment.attempt == 0) happen(fault, trainer);
  };
  return train_as_rank(config, options);
}

}  // namespace
}  // namespace rwkv::trainer

int main(int argc, char** argv) {
  using namespace rwkv::trainer;
  std::signal(SIGXFSZ, SIG_IGN);
  const auto fail = [](int code, const char* text) {
    fmt::print(stderr, "rwkv: {}\n", text);
    std::fflush(nullptr);
    ::_exit(code);
  };
  try {
    if (argc == 6 && std::string(argv[1]) == "launch") {
      return launch({.program = "/proc/self/exe",
                     .arguments = {argv[4], argv[5]},
                     .nproc = std::atoll(argv[2]),
                     .restarts = std::atoll(argv[3])});
    }
    if (argc != 3) rwkv::user_error("usage: rank_with_faults CONFIG.yaml FAULT[:RANK[:STEP]]");
    return run(argv[1], argv[2]);
  } catch (const rwkv::UserError& error) {
    fail(kUserMistake, error.what());
  } catch (const NotFiniteError& error) {
    fail(kNotFinite, error.what());
  } catch (const PeerLostError& error) {
    fail(kPeerLost, error.what());
  } catch (const std::exception& error) {
    fail(kBug, error.what());
  }
}
