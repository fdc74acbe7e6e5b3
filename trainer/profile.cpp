#include "trainer/profile.h"

#include <ATen/record_function.h>
#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <mutex>
#include <set>
#include <utility>
#include <vector>

namespace rwkv::trainer {
namespace {

using Clock = std::chrono::steady_clock;

struct Entry {
  double seconds = 0;
  int64_t calls = 0;
};

// Callbacks carry no user data, so the sums of the one living profile are global.
std::mutex sums_mutex;
std::map<std::string, Entry> sums;

/// Time spent in operators called from the one that runs, per thread and nesting depth.
thread_local std::vector<double> children_s;

struct Call : public at::ObserverContext {
  Clock::time_point start;
};

std::unique_ptr<at::ObserverContext> on_start(const at::RecordFunction& /*function*/) {
  auto call = std::make_unique<Call>();
  children_s.push_back(0);
  call->start = Clock::now();
  return call;
}

void on_end(const at::RecordFunction& function, at::ObserverContext* context) {
  const double total_s =
      std::chrono::duration<double>(Clock::now() - static_cast<Call*>(context)->start).count();
  if (children_s.empty()) return;  // began before the profile did
  const double self_s = total_s - children_s.back();
  children_s.pop_back();
  if (!children_s.empty()) children_s.back() += total_s;
  const std::lock_guard lock(sums_mutex);
  Entry& entry = sums[function.name()];
  entry.seconds += self_s;
  ++entry.calls;
}

bool is_matrix_product(const std::string& name) {
  static const std::set<std::string> kNames{"aten::mm",      "aten::addmm",  "aten::bmm",
                                            "aten::baddbmm", "aten::linear", "aten::addmm_"};
  return kNames.contains(name);
}

}  // namespace

OperatorProfile::OperatorProfile() {
  handle_ = at::addGlobalCallback(
      at::RecordFunctionCallback(on_start, on_end)
          .scopes({at::RecordScope::FUNCTION, at::RecordScope::BACKWARD_FUNCTION}));
  reset();
}

OperatorProfile::~OperatorProfile() { at::removeCallback(handle_); }

void OperatorProfile::reset() {
  const std::lock_guard lock(sums_mutex);
  sums.clear();
  start_ = Clock::now();
}

std::string OperatorProfile::table() const {
  const double wall_s = std::chrono::duration<double>(Clock::now() - start_).count();
  const std::lock_guard lock(sums_mutex);
  std::vector<std::pair<std::string, Entry>> rows(sums.begin(), sums.end());
  std::sort(rows.begin(), rows.end(),
            [](const auto& a, const auto& b) { return a.second.seconds > b.second.seconds; });
  double inside_s = 0;
  double products_s = 0;
  for (const auto& [name, entry] : rows) {
    inside_s += entry.seconds;
    if (is_matrix_product(name)) products_s += entry.seconds;
  }
  std::string text = fmt::format("{:<44} {:>9} {:>10} {:>7}\n", "operator (time of its own)",
                                 "calls", "seconds", "share");
  constexpr size_t kRows = 20;
  for (size_t i = 0; i < std::min(rows.size(), kRows); ++i) {
    const auto& [name, entry] = rows[i];
    text += fmt::format("{:<44} {:>9} {:>10.3f} {:>6.1f}%\n", name, entry.calls, entry.seconds,
                        100 * entry.seconds / wall_s);
  }
  text += fmt::format("{:<44} {:>9} {:>10.3f} {:>6.1f}%\n", "outside all operators", "",
                      wall_s - inside_s, 100 * (wall_s - inside_s) / wall_s);
  text += fmt::format("matrix products: {:.1f}% of {:.2f} s\n", 100 * products_s / wall_s, wall_s);
  return text;
}

}  // namespace rwkv::trainer
