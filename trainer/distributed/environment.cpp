#include "trainer/distributed/environment.h"

#include <charconv>
#include <cstdlib>

#include "data/base/error.h"

namespace rwkv::trainer {
namespace {

constexpr uint16_t kDefaultPort = 29500;  // as torchrun's

/// Variables with checks; messages name the variable.
class Variables {
 public:
  using Lookup = std::function<std::optional<std::string>(const std::string&)>;
  explicit Variables(const Lookup& lookup) : lookup_(lookup) {}

  [[nodiscard]] bool has(const std::string& name) const { return lookup_(name).has_value(); }
  [[nodiscard]] std::string text(const std::string& name) const {
    return lookup_(name).value_or("");
  }
  [[nodiscard]] int64_t number(const std::string& name, int64_t least, int64_t most) const {
    const std::string value = text(name);
    int64_t number = 0;
    const char* end = value.data() + value.size();
    const auto [stop, error] = std::from_chars(value.data(), end, number);
    if (error != std::errc() || stop != end || value.empty() || number < least || number > most) {
      user_error("{}: '{}' is no number in {}..{}; correct it, or unset it to train alone", name,
                 printable(value), least, most);
    }
    return number;
  }

 private:
  const Lookup& lookup_;
};

struct Names {
  const char* started_by;
  const char* rank;
  const char* world_size;
  const char* local_rank;
};

constexpr Names kTorchrun = {"torchrun", "RANK", "WORLD_SIZE", "LOCAL_RANK"};
constexpr Names kOpenMpi = {"Open MPI", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE",
                            "OMPI_COMM_WORLD_LOCAL_RANK"};
// Not SLURM_NTASKS: that one is also set in a batch script, which runs once.
constexpr Names kSlurm = {"Slurm", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"};

std::optional<Names> names_that_are_set(const Variables& variables) {
  if (variables.has("RANK") != variables.has("WORLD_SIZE")) {
    user_error(
        "RANK and WORLD_SIZE: only one of them is set; set both to train with others, or unset it");
  }
  for (const Names& names : {kTorchrun, kOpenMpi, kSlurm}) {
    if (variables.has(names.rank) && variables.has(names.world_size)) return names;
  }
  return std::nullopt;
}

std::string choose_master_addr(const Variables& variables, const RankEnvironment& environment) {
  if (variables.has("MASTER_ADDR")) return variables.text("MASTER_ADDR");
  const bool one_node = variables.has("SLURM_STEP_NUM_NODES") &&
                        variables.number("SLURM_STEP_NUM_NODES", 1, INT32_MAX) == 1;
  if (one_node && environment.started_by == kSlurm.started_by) return "127.0.0.1";
  if (variables.has("SLURM_STEP_NODELIST") && environment.started_by == kSlurm.started_by) {
    return first_host(variables.text("SLURM_STEP_NODELIST"));
  }
  const bool one_machine =
      environment.started_by == kOpenMpi.started_by &&
      variables.has("OMPI_COMM_WORLD_LOCAL_SIZE") &&
      variables.number("OMPI_COMM_WORLD_LOCAL_SIZE", 1, INT32_MAX) == environment.world_size;
  if (one_machine) return "127.0.0.1";
  user_error("MASTER_ADDR: missing; {} started {} ranks, set it to the machine of rank 0",
             environment.started_by, environment.world_size);
}

uint16_t choose_master_port(const Variables& variables, const RankEnvironment& environment) {
  if (variables.has("MASTER_PORT")) {
    return static_cast<uint16_t>(variables.number("MASTER_PORT", 1, 65535));
  }
  if (environment.started_by == kSlurm.started_by && variables.has("SLURM_JOB_ID")) {
    return static_cast<uint16_t>(15000 + variables.number("SLURM_JOB_ID", 0, INT64_MAX) % 10000);
  }
  return kDefaultPort;
}

}  // namespace

RankEnvironment read_environment(
    const std::function<std::optional<std::string>(const std::string&)>& lookup) {
  const Variables variables(lookup);
  const std::optional<Names> names = names_that_are_set(variables);
  RankEnvironment environment;
  if (!names) return environment;
  environment.started_by = names->started_by;
  environment.world_size = variables.number(names->world_size, 1, 1 << 20);
  environment.rank = variables.number(names->rank, 0, environment.world_size - 1);
  if (variables.has(names->local_rank)) {
    environment.local_rank = variables.number(names->local_rank, 0, environment.world_size - 1);
  }
  if (environment.world_size == 1) return environment;
  environment.master_addr = choose_master_addr(variables, environment);
  environment.master_port = choose_master_port(variables, environment);
  environment.store_is_hosted = variables.text("TORCHELASTIC_USE_AGENT_STORE") == "True";
  if (variables.has("TORCHELASTIC_RESTART_COUNT")) {
    environment.attempt = variables.number("TORCHELASTIC_RESTART_COUNT", 0, INT32_MAX);
  }
  return environment;
}

RankEnvironment environment_of_this_process() {
  return read_environment([](const std::string& name) -> std::optional<std::string> {
    const char* value = std::getenv(name.c_str());
    if (value == nullptr) return std::nullopt;
    return value;
  });
}

std::string first_host(std::string_view nodelist) {
  const size_t bracket = nodelist.find_first_of("[,");
  std::string host(nodelist.substr(0, bracket));
  if (bracket == std::string_view::npos || nodelist[bracket] == ',') return host;
  const std::string_view numbers = nodelist.substr(bracket + 1);
  host += numbers.substr(0, numbers.find_first_of("-,]"));
  // What follows the brackets belongs to every name: node[1-2].cluster
  const size_t close = numbers.find(']');
  if (close == std::string_view::npos) return host;
  const std::string_view rest = numbers.substr(close + 1);
  return host + std::string(rest.substr(0, rest.find(',')));
}

}  // namespace rwkv::trainer
