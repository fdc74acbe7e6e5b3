#include "trainer/distributed/rank_group.h"

#include <spdlog/spdlog.h>
#include <torch/torch.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <exception>
#include <nlohmann/json.hpp>
#include <thread>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <utility>

#include "data/base/error.h"
#include "trainer/distributed/backends.h"
#include "trainer/distributed/heartbeat.h"
#include "trainer/distributed/store.h"
#include "trainer/distributed/watchdog.h"
#include "trainer/exit_code.h"

namespace rwkv::trainer {
namespace {

using nlohmann::json;
constexpr std::chrono::milliseconds kPollInterval{5};
/// A rank whose heartbeat stands still for that long is taken for dead or stopped.
constexpr std::chrono::milliseconds kSilence = 5 * Heartbeat::kInterval;

std::string host_name() {
  std::array<char, 256> name{};
  ::gethostname(name.data(), name.size() - 1);
  return name.data();
}

}  // namespace

class PendingWork {
 public:
  c10::intrusive_ptr<c10d::Work> work;  // null where there was nothing to do
  std::vector<at::Tensor> tensors;
};

struct RankGroup::Connection {
  std::chrono::milliseconds timeout{};
  StoreConnections store;
  BackendPtr cpu;
  BackendPtr cuda;
  std::unique_ptr<Heartbeat> heartbeat;
  Watchdog watchdog;
  bool hosts_store = false;
  bool launcher_holds_store = false;
  bool broken = false;

  /// Watches one call that waits for others; it should end by itself within the timeout.
  [[nodiscard]] Watchdog::Scope watch(const std::string& what) {
    return {watchdog, timeout + kSilence, what};
  }

  [[nodiscard]] const BackendPtr& backend(const at::Tensor& tensor) const {
    const BackendPtr& chosen = tensor.is_cuda() ? cuda : cpu;
    TORCH_CHECK(chosen, "RankGroup: no backend for tensors on ", tensor.device());
    return chosen;
  }
};

RankGroup::RankGroup() = default;

RankGroup::RankGroup(const RankEnvironment& environment, const GroupOptions& options)
    : rank_(environment.rank), world_size_(environment.world_size) {
  local_rank_ = environment.local_rank.value_or(0);
  if (is_alone()) return;
  connection_ = std::make_unique<Connection>();
  connection_->timeout = options.timeout;
  connection_->launcher_holds_store = environment.store_is_hosted;
  connection_->hosts_store = rank_ == 0 && !environment.store_is_hosted;
  connection_->store = connect_store(environment, options.timeout, options.allow_public_address);
  connection_->heartbeat = std::make_unique<Heartbeat>(connection_->store.heartbeat, rank_);
  const Watchdog::Scope watched = connection_->watch(silent_store());
  try {
    meet(environment, options);
  } catch (const UserError& error) {
    leave(error.what());
    throw;
  }
  try {
    connection_->cpu =
        make_gloo_backend(c10::make_intrusive<c10d::PrefixStore>("gloo", connection_->store.main),
                          rank_, world_size_, connection_->store.own_address, options.timeout);
  } catch (const std::exception& error) {
    fail(error.what());
  }
}

RankGroup::~RankGroup() {
  if (!connection_ || !connection_->broken) return;
  // Their destructors would wait for collectives that never end.
  (void)connection_->cpu.release();
  (void)connection_->cuda.release();
  (void)connection_.release();
}

void RankGroup::claim_rank() {
  c10d::Store& store = *connection_->store.main;
  for (int64_t r = 0; r < world_size_; ++r) names_.push_back(fmt::format("rank {}", r));
  if (store.add(fmt::format("claim/{}", rank_), 1) != 1) {
    user_error(
        "RANK: two processes call themselves rank {}, this one is process {} on {}; give each "
        "process a rank of its own",
        rank_, ::getpid(), host_name());
  }
  // Ranks beyond the world size of others must not wait for those who will never come.
  const std::string size_text = std::to_string(world_size_);
  const std::string agreed = store.compareSet("world_size", "", size_text);
  if (agreed != size_text) {
    user_error("WORLD_SIZE: rank {} says {}, another rank said {}; give all ranks the same", rank_,
               size_text, agreed);
  }
}

void RankGroup::meet(const RankEnvironment& environment, const GroupOptions& options) {
  claim_rank();
  c10d::Store& store = *connection_->store.main;
  const json own{{"host", host_name()}, {"process", ::getpid()}, {"build", options.build}};
  store.set(fmt::format("meet/{}", rank_), own.dump());
  wait_for_keys("meet", "did not start");
  std::vector<std::string> hosts;
  for (int64_t r = 0; r < world_size_; ++r) {
    const json entry = json::parse(store.get_to_str(fmt::format("meet/{}", r)), nullptr, false);
    TORCH_CHECK(entry.is_object(), "RankGroup: the store holds no record of rank ", r);
    hosts.push_back(printable(entry["host"].get<std::string>()));
    names_[static_cast<size_t>(r)] =
        fmt::format("rank {} (process {} on {})", r, entry["process"].get<int64_t>(), hosts.back());
    if (entry["build"] != options.build) {
      user_error("{} runs build {}, rank {} runs {}; start the same program everywhere", name_of(r),
                 printable(entry["build"].get<std::string>()), rank_, printable(options.build));
    }
  }
  const auto own_host = hosts.begin() + rank_;
  local_world_size_ = std::count(hosts.begin(), hosts.end(), *own_host);
  local_rank_ = environment.local_rank.value_or(std::count(hosts.begin(), own_host, *own_host));
}

std::string RankGroup::name_of(int64_t rank) const {
  return names_.empty() ? fmt::format("rank {}", rank) : names_.at(static_cast<size_t>(rank));
}

void RankGroup::use_cuda(at::Device device) {
  if (is_alone()) return;
  connection_->cuda =
      make_nccl_backend(c10::make_intrusive<c10d::PrefixStore>("nccl", connection_->store.main),
                        rank_, world_size_, device, connection_->timeout);
}

void RankGroup::wait_for_keys(const std::string& prefix, std::string_view what) {
  c10d::Store& store = *connection_->store.main;
  const auto deadline = std::chrono::steady_clock::now() + connection_->timeout;
  try {
    for (int64_t r = 0; r < world_size_;) {
      if (store.check({fmt::format("{}/{}", prefix, r)})) {
        ++r;
        continue;
      }
      const std::string left = fmt::format("left/{}", r);
      if (store.check({left})) fail(fmt::format("{} {}", name_of(r), what));
      if (std::chrono::steady_clock::now() > deadline) {
        const std::string text =
            fmt::format("{} {} within {} s", name_of(r), what, connection_->timeout.count() / 1000);
        store.compareSet("verdict", "", text);
        fail(text);
      }
      std::this_thread::sleep_for(kPollInterval);
    }
  } catch (const c10::Error& error) {
    fail(error.what_without_backtrace());
  }
}

std::vector<std::string> RankGroup::exchange(std::string_view what, const std::string& text) {
  if (is_alone()) return {text};
  c10d::Store& store = *connection_->store.main;
  const Watchdog::Scope watched = connection_->watch(silent_store());
  connection_->heartbeat->at_next_collective();
  const auto prefix_of = [](int64_t number) { return fmt::format("exchange/{}", number); };
  const std::string prefix = prefix_of(exchanges_);
  std::vector<std::string> texts;
  try {
    store.set(fmt::format("{}/{}", prefix, rank_), text);
    wait_for_keys(prefix, fmt::format("did not come to: {}", what));
    for (int64_t r = 0; r < world_size_; ++r) {
      texts.push_back(store.get_to_str(fmt::format("{}/{}", prefix, r)));
    }
    // All others have written this one, hence read the one before.
    if (exchanges_ > 0) store.deleteKey(fmt::format("{}/{}", prefix_of(exchanges_ - 1), rank_));
  } catch (const c10::Error& error) {
    fail(error.what_without_backtrace());
  }
  ++exchanges_;
  return texts;
}

std::string RankGroup::from_main(std::string_view what, const std::string& text) {
  return exchange(what, is_main() ? text : "").front();
}

void RankGroup::main_first(std::string_view what, const std::function<void()>& work) {
  if (is_main()) work();
  exchange(what, "");
  if (!is_main()) work();
}

std::vector<double> RankGroup::gather(std::span<const double> numbers) {
  if (is_alone()) return {numbers.begin(), numbers.end()};
  const auto count = static_cast<int64_t>(numbers.size());
  const at::Tensor own = at::empty({count}, at::kDouble);
  std::copy(numbers.begin(), numbers.end(), own.mutable_data_ptr<double>());
  const at::Tensor all = at::empty({count * world_size_}, at::kDouble);
  all_gather(all, own);
  const double* data = all.const_data_ptr<double>();
  return {data, data + all.numel()};
}

double RankGroup::sum(double number) {
  double total = 0;
  for (const double one : gather(std::span(&number, 1))) total += one;
  return total;
}

Pending RankGroup::all_reduce(const at::Tensor& flat) {
  auto pending = std::make_shared<PendingWork>();
  if (is_alone()) return pending;
  pending->tensors = {flat};
  connection_->heartbeat->at_next_collective();
  try {
    pending->work = connection_->backend(flat)->allreduce(pending->tensors);
  } catch (const std::exception& error) {
    fail(error.what());
  }
  return pending;
}

Pending RankGroup::reduce_scatter(const at::Tensor& shard, const at::Tensor& flat) {
  TORCH_CHECK(shard.numel() * world_size_ == flat.numel(), "reduce_scatter: ", flat.numel(),
              " elements into shards of ", shard.numel(), " for ", world_size_, " ranks");
  auto pending = std::make_shared<PendingWork>();
  pending->tensors = {shard, flat};
  if (is_alone()) {
    shard.copy_(flat);
    return pending;
  }
  connection_->heartbeat->at_next_collective();
  try {
    pending->work =
        connection_->backend(flat)->_reduce_scatter_base(pending->tensors[0], pending->tensors[1]);
  } catch (const std::exception& error) {
    fail(error.what());
  }
  return pending;
}

void RankGroup::all_gather(const at::Tensor& flat, const at::Tensor& shard) {
  TORCH_CHECK(shard.numel() * world_size_ == flat.numel(), "all_gather: shards of ", shard.numel(),
              " elements into ", flat.numel(), " for ", world_size_, " ranks");
  if (is_alone()) {
    flat.copy_(shard);
    return;
  }
  auto pending = std::make_shared<PendingWork>();
  pending->tensors = {flat, shard};
  connection_->heartbeat->at_next_collective();
  try {
    pending->work =
        connection_->backend(flat)->_allgather_base(pending->tensors[0], pending->tensors[1]);
  } catch (const std::exception& error) {
    fail(error.what());
  }
  wait(pending);
}

void RankGroup::wait(const Pending& pending) {
  if (!pending || !pending->work) return;
  const Watchdog::Scope watched = connection_->watch(
      fmt::format("rank {} waited for the others' gradients longer than distributed.timeout_s, and "
                  "the collective does not end; the run ends",
                  rank_));
  try {
    pending->work->wait();
  } catch (const std::exception& error) {
    fail(error.what());
  }
}

void RankGroup::at_step(int64_t step) {
  if (connection_) connection_->heartbeat->at_step(step);
}

void RankGroup::leave(const std::string& reason) noexcept {
  if (!connection_) return;
  try {
    const Watchdog::Scope watched(connection_->watchdog, 3 * kSilence, silent_store());
    connection_->store.main->set(fmt::format("left/{}", rank_), reason);
    linger();
  } catch (const std::exception&) {
    // Then the others find out by themselves.
    connection_->broken = true;
  }
}

void RankGroup::finish() {
  if (is_alone()) return;
  const Watchdog::Scope watched = connection_->watch(silent_store());
  exchange("the end", "");
  if (!connection_->hosts_store) {
    connection_->store.main->add("gone", 1);
    return;
  }
  // The store goes with this process: let the others read their last texts.
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  while (connection_->store.main->add("gone", 0) < world_size_ - 1 &&
         std::chrono::steady_clock::now() < deadline) {
    std::this_thread::sleep_for(kPollInterval);
  }
}

std::string RankGroup::silent_store() const {
  return fmt::format(
      "{}, which holds the store of this run, does not answer: its machine or the network is gone; "
      "rank {} stops too. The same command goes on from the newest checkpoint, if there is one",
      connection_->launcher_holds_store ? "the launcher" : name_of(0), rank_);
}

void RankGroup::linger() {
  if (connection_->hosts_store) std::this_thread::sleep_for(kSilence + Heartbeat::kInterval);
}

std::string RankGroup::find_culprit() {
  c10d::Store& store = *connection_->store.main;
  for (int64_t r = 0; r < world_size_; ++r) {
    const std::string key = fmt::format("left/{}", r);
    if (r != rank_ && store.check({key})) {
      return fmt::format("{} ended: {}", name_of(r), store.get_to_str(key));
    }
  }
  std::vector<Beat> before;
  for (int64_t r = 0; r < world_size_; ++r) before.push_back(read_beat(store, r));
  std::this_thread::sleep_for(kSilence);
  std::string silent;
  int64_t slowest = 0;
  Beat slowest_beat;
  for (int64_t r = 0; r < world_size_; ++r) {
    const Beat now = read_beat(store, r);
    if (r == 0 || now.collectives < slowest_beat.collectives) {
      slowest = r;
      slowest_beat = now;
    }
    if (r == rank_ || now.count != before[static_cast<size_t>(r)].count) continue;
    silent += fmt::format("{}{} gives no sign of life (its last came from step {})",
                          silent.empty() ? "" : "; ", name_of(r), now.step);
  }
  if (!silent.empty()) return silent + ": it was killed or stopped, or its machine is gone";
  return fmt::format("all ranks live, but {} keeps the others waiting at step {}", name_of(slowest),
                     slowest_beat.step);
}

void RankGroup::fail(const std::string& what) {
  const Watchdog::Scope watched(connection_->watchdog, 4 * kSilence, silent_store());
  connection_->broken = true;
  std::string verdict;
  try {
    c10d::Store& store = *connection_->store.main;
    if (store.check({"verdict"})) {
      verdict = store.get_to_str("verdict");
    } else {
      const std::string own = find_culprit();
      const std::string first = store.compareSet("verdict", "", own);
      verdict = first.empty() ? own : first;
    }
    linger();
  } catch (const std::exception&) {
    verdict = connection_->hosts_store
                  ? "the store is gone"
                  : fmt::format("{} is gone, and with it the store of this run",
                                connection_->launcher_holds_store ? "the launcher" : name_of(0));
  }
  spdlog::debug("what failed: {}", what);
  throw PeerLostError(fmt::format(
      "{}; rank {} stops too. The same command goes on from the newest checkpoint, if there is one",
      verdict, rank_));
}

}  // namespace rwkv::trainer
