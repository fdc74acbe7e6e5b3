#include "trainer/distributed/supervisor.h"

#include <spdlog/spdlog.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <optional>

#include "data/base/error.h"
#include "trainer/distributed/store.h"
#include "trainer/exit_code.h"

namespace rwkv::trainer {
namespace {

using Clock = std::chrono::steady_clock;
constexpr std::array kPassedOn = {SIGTERM, SIGINT, SIGUSR1};

/// Signals that sigtimedwait() takes, kept from being delivered meanwhile.
class BlockedSignals {
 public:
  BlockedSignals() {
    ::sigemptyset(&set_);
    ::sigaddset(&set_, SIGCHLD);
    for (const int signal : kPassedOn) ::sigaddset(&set_, signal);
    ::pthread_sigmask(SIG_BLOCK, &set_, &before_);
  }
  BlockedSignals(const BlockedSignals&) = delete;
  BlockedSignals& operator=(const BlockedSignals&) = delete;
  ~BlockedSignals() { ::pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

  /// The next signal, or nothing after a tenth of a second.
  [[nodiscard]] std::optional<int> wait() const {
    const timespec timeout{0, 100'000'000};
    const int signal = ::sigtimedwait(&set_, nullptr, &timeout);
    if (signal < 0) return std::nullopt;
    return signal;
  }
  [[nodiscard]] const sigset_t& before() const { return before_; }

 private:
  sigset_t set_{};
  sigset_t before_{};
};

struct Rank {
  int64_t rank = 0;
  pid_t pid = 0;
  bool alive = true;
  bool killed_by_us = false;
  int status = 0;  // of waitpid()
};

/// This process's environment with torchrun's variables of one rank.
std::vector<std::string> environment_of(const LaunchPlan& plan, int64_t rank, uint16_t port,
                                        int64_t attempt) {
  const std::vector<std::pair<std::string, std::string>> own = {
      {"RANK", std::to_string(rank)},
      {"WORLD_SIZE", std::to_string(plan.nproc)},
      {"LOCAL_RANK", std::to_string(rank)},
      {"LOCAL_WORLD_SIZE", std::to_string(plan.nproc)},
      {"MASTER_ADDR", "127.0.0.1"},
      {"MASTER_PORT", std::to_string(port)},
      {"TORCHELASTIC_USE_AGENT_STORE", "True"},
      {"TORCHELASTIC_RESTART_COUNT", std::to_string(attempt)}};
  std::vector<std::string> variables;
  for (char** variable = environ; *variable != nullptr; ++variable) {
    const std::string_view text = *variable;
    const std::string_view name = text.substr(0, text.find('='));
    const bool replaced =
        std::any_of(own.begin(), own.end(), [&](const auto& one) { return one.first == name; });
    if (!replaced) variables.emplace_back(text);
  }
  for (const auto& [name, value] : own) variables.push_back(fmt::format("{}={}", name, value));
  return variables;
}

std::vector<char*> pointers(std::vector<std::string>& texts) {
  std::vector<char*> list;
  for (std::string& text : texts) list.push_back(text.data());
  list.push_back(nullptr);
  return list;
}

std::string describe(const Rank& rank) {
  if (WIFSIGNALED(rank.status)) {
    const int signal = WTERMSIG(rank.status);
    return fmt::format("rank {} (process {}) was ended by signal {} ({})", rank.rank, rank.pid,
                       signal, ::strsignal(signal));
  }
  return fmt::format("rank {} (process {}) ended with exit code {}", rank.rank, rank.pid,
                     WEXITSTATUS(rank.status));
}

int exit_code_of(const Rank& rank) {
  if (!WIFSIGNALED(rank.status)) return WEXITSTATUS(rank.status);
  // One that was passed on before the rank listened for it.
  const int signal = WTERMSIG(rank.status);
  const bool asked = std::find(kPassedOn.begin(), kPassedOn.end(), signal) != kPassedOn.end();
  return asked ? 128 + signal : kPeerLost;
}

/// One start of the group.
class Group {
 public:
  Group(const LaunchPlan& plan, int64_t attempt, const BlockedSignals& signals)
      : signals_(signals), store_(host_local_store()) {
    for (int64_t rank = 0; rank < plan.nproc; ++rank) start(plan, rank, attempt);
  }

  /// Until all have ended; `stopping` becomes true when a signal asks for it.
  int watch(bool& stopping) {
    while (std::any_of(ranks_.begin(), ranks_.end(), [](const Rank& r) { return r.alive; })) {
      const std::optional<int> signal = signals_.wait();
      if (signal && *signal != SIGCHLD) {
        stopping = true;
        pass_on(*signal);
      }
      reap();
      if (failed_since_ && Clock::now() - *failed_since_ > std::chrono::seconds(kGraceS))
        kill_all();
    }
    return summary();
  }

 private:
  void start(const LaunchPlan& plan, int64_t rank, int64_t attempt) {
    std::vector<std::string> arguments = {plan.program.string()};
    arguments.insert(arguments.end(), plan.arguments.begin(), plan.arguments.end());
    std::vector<std::string> variables = environment_of(plan, rank, store_.port, attempt);
    const std::vector<char*> argv = pointers(arguments);
    const std::vector<char*> envp = pointers(variables);
    const pid_t parent = ::getpid();
    const pid_t pid = ::fork();
    if (pid < 0) {
      const int reason = errno;
      kill_all();
      user_error("cannot start rank {}: {}; start fewer with --nproc", rank, std::strerror(reason));
    }
    if (pid == 0) {  // only calls that are safe after a fork of a process with threads
      ::prctl(PR_SET_PDEATHSIG, SIGTERM);
      if (::getppid() != parent) ::_exit(kPeerLost);
      ::pthread_sigmask(SIG_SETMASK, &signals_.before(), nullptr);
      ::execve(argv[0], argv.data(), envp.data());
      ::_exit(127);
    }
    ranks_.push_back({rank, pid});
  }

  void pass_on(int signal) {
    for (const Rank& rank : ranks_) {
      if (rank.alive) ::kill(rank.pid, signal);
    }
  }

  void kill_all() {
    for (Rank& rank : ranks_) {
      if (!rank.alive || rank.killed_by_us) continue;
      spdlog::warn("rank {} (process {}) still runs {} s later; ending it", rank.rank, rank.pid,
                   kGraceS);
      rank.killed_by_us = true;
      ::kill(rank.pid, SIGKILL);
    }
  }

  void reap() {
    for (Rank& rank : ranks_) {
      if (!rank.alive || ::waitpid(rank.pid, &rank.status, WNOHANG) != rank.pid) continue;
      rank.alive = false;
      const int code = exit_code_of(rank);
      if (rank.killed_by_us || code == kFinished || code == kStoppedBySignal) continue;
      if (!failed_since_) {
        failed_since_ = Clock::now();
        spdlog::error("{}", describe(rank));
      }
    }
  }

  [[nodiscard]] int summary() const {
    std::vector<int> codes;
    for (const Rank& rank : ranks_) codes.push_back(exit_code_of(rank));
    for (const int told : {kUserMistake, kNotFinite, kBug}) {
      if (std::find(codes.begin(), codes.end(), told) != codes.end()) return told;
    }
    return *std::max_element(codes.begin(), codes.end());
  }

  const BlockedSignals& signals_;
  HostedStore store_;
  std::vector<Rank> ranks_;
  std::optional<Clock::time_point> failed_since_;
};

}  // namespace

int launch(const LaunchPlan& plan) {
  const BlockedSignals signals;
  bool stopping = false;
  for (int64_t attempt = 0;; ++attempt) {
    const int code = Group(plan, attempt, signals).watch(stopping);
    const bool lost = code == kPeerLost || code == kBug;
    if (!lost || stopping || attempt >= plan.restarts) return code;
    spdlog::warn(
        "starting the {} ranks again (restart {} of {}); they go on from the newest checkpoint, or "
        "from the beginning where there is none",
        plan.nproc, attempt + 1, plan.restarts);
  }
}

}  // namespace rwkv::trainer
