#include "trainer/profile.h"

#include <ATen/SequenceNumber.h>
#include <ATen/record_function.h>
#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string_view>
#include <utility>
#include <vector>

#include "data/base/error.h"
#include "trainer/part_times.h"
#include "trainer/trace_file.h"

namespace rwkv::trainer {
namespace {

constexpr std::string_view kPrefix = "rwkv::";
constexpr std::string_view kClosed = "after_step";  // validation runs the model too

int64_t now_ns() {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::nanoseconds>(now).count();
}

struct Entry {
  int64_t self_ns = 0;
  int64_t calls = 0;
};

/// What the callbacks fill. They carry no user data, so that of the one living profile is global.
struct Recorder {
  std::mutex mutex;
  std::map<std::string, Entry> operators;
  PartTimes parts{0};
  TraceFile trace;
  bool tracing = false;
  uint64_t thread = 0;  // that trains, whose scopes are the parts
};

Recorder& recorder() {
  static Recorder the_recorder;
  return the_recorder;
}

/// Time spent in operators called from the one that runs, per thread and nesting depth.
thread_local std::vector<int64_t> children_ns;

bool is_scope(const at::RecordFunction& function) {
  return function.scope() == at::RecordScope::USER_SCOPE;
}

bool is_matrix_product(std::string_view name) {
  static const std::set<std::string_view> kNames{"aten::mm",      "aten::addmm",  "aten::bmm",
                                                 "aten::baddbmm", "aten::linear", "aten::addmm_"};
  return kNames.contains(name);
}

struct Call : public at::ObserverContext {
  int64_t start_ns = 0;
  uint64_t sequence = 0;  // the next of autograd at the start
  bool entered = false;   // a part, whose end leads back to `previous`
  PartTimes::Place previous;
  int part = 0;
};

std::unique_ptr<at::ObserverContext> on_start(const at::RecordFunction& function) {
  auto call = std::make_unique<Call>();
  call->sequence = at::sequence_number::peek();
  Recorder& r = recorder();
  const std::lock_guard lock(r.mutex);
  call->start_ns = now_ns();
  if (is_scope(function)) {
    const std::string_view name = function.name();
    if (name.starts_with(kPrefix) && function.threadId() == r.thread &&
        r.parts.name(r.parts.here().part) != kClosed) {
      call->previous = r.parts.enter(name.substr(kPrefix.size()), call->start_ns);
      call->entered = true;
    }
  } else {
    children_ns.push_back(0);
    if (function.scope() == at::RecordScope::BACKWARD_FUNCTION) {
      call->previous = r.parts.enter_backward(function.seqNr(), call->start_ns);
      call->entered = true;
    }
  }
  call->part = r.parts.here().part;
  return call;
}

void count_operator(Recorder& r, const at::RecordFunction& function, int64_t total_ns) {
  if (children_ns.empty()) return;  // began before the profile did
  const int64_t self_ns = total_ns - children_ns.back();
  children_ns.pop_back();
  if (!children_ns.empty()) children_ns.back() += total_ns;
  Entry& entry = r.operators[function.name()];
  entry.self_ns += self_ns;
  ++entry.calls;
  if (is_matrix_product(function.name())) r.parts.add_products(self_ns);
}

const char* category(const at::RecordFunction& function) {
  if (is_scope(function)) return "part";
  return function.scope() == at::RecordScope::BACKWARD_FUNCTION ? "backward" : "op";
}

void on_end(const at::RecordFunction& function, at::ObserverContext* context) {
  const auto& call = *static_cast<Call*>(context);
  Recorder& r = recorder();
  const std::lock_guard lock(r.mutex);
  const int64_t end_ns = now_ns();
  if (!is_scope(function)) count_operator(r, function, end_ns - call.start_ns);
  if (r.tracing) {
    r.trace.add({.name = r.trace.name(function.name()),
                 .category = category(function),
                 .thread = function.threadId(),
                 .start_ns = call.start_ns,
                 .duration_ns = end_ns - call.start_ns,
                 .part = r.trace.name(r.parts.name(call.part)),
                 .sequence = function.seqNr()});
  }
  if (!call.entered) return;
  if (is_scope(function)) {
    r.parts.remember_forward(call.part, call.sequence, at::sequence_number::peek());
  }
  r.parts.leave(call.previous, end_ns);
}

double seconds(int64_t ns) { return static_cast<double>(ns) * 1e-9; }

double per_cent(int64_t part_ns, int64_t whole_ns) {
  return whole_ns > 0 ? 100 * static_cast<double>(part_ns) / static_cast<double>(whole_ns) : 0;
}

std::string part_table(const PartTimes& parts, int64_t steps) {
  PartTimes::Part sum{"all"};
  for (const PartTimes::Part& part : parts.parts()) {
    sum.forward_ns += part.forward_ns;
    sum.backward_ns += part.backward_ns;
    sum.products_ns += part.products_ns;
  }
  const auto ms = [&](int64_t ns) {
    return static_cast<double>(ns) * 1e-6 / static_cast<double>(std::max<int64_t>(steps, 1));
  };
  std::string text =
      fmt::format("{:<28} {:>10} {:>10} {:>10} {:>7} {:>16}\n", "part (milliseconds a step)",
                  "forward", "backward", "sum", "share", "matrix products");
  const auto add = [&](const PartTimes::Part& part) {
    text += fmt::format("{:<28} {:>10.3f} {:>10.3f} {:>10.3f} {:>6.1f}% {:>15.1f}%\n", part.name,
                        ms(part.forward_ns), ms(part.backward_ns), ms(part.total_ns()),
                        per_cent(part.total_ns(), sum.total_ns()),
                        per_cent(part.products_ns, part.total_ns()));
  };
  const auto& all = parts.parts();
  std::for_each(all.begin() + 1, all.end(), add);
  add(all.front());
  add(sum);
  return text;
}

std::string operator_table(const std::map<std::string, Entry>& operators, int64_t wall_ns) {
  std::vector<std::pair<std::string, Entry>> rows(operators.begin(), operators.end());
  std::sort(rows.begin(), rows.end(),
            [](const auto& a, const auto& b) { return a.second.self_ns > b.second.self_ns; });
  int64_t inside_ns = 0;
  for (const auto& [name, entry] : rows) inside_ns += entry.self_ns;
  std::string text = fmt::format("{:<44} {:>9} {:>10} {:>7}\n", "operator (time of its own)",
                                 "calls", "seconds", "share");
  constexpr size_t kRows = 20;
  for (size_t i = 0; i < std::min(rows.size(), kRows); ++i) {
    const auto& [name, entry] = rows[i];
    text += fmt::format("{:<44} {:>9} {:>10.3f} {:>6.1f}%\n", name, entry.calls,
                        seconds(entry.self_ns), per_cent(entry.self_ns, wall_ns));
  }
  return text + fmt::format("{:<44} {:>9} {:>10.3f} {:>6.1f}%\n", "outside all operators", "",
                            seconds(wall_ns - inside_ns), per_cent(wall_ns - inside_ns, wall_ns));
}

}  // namespace

StepProfile::StepProfile(std::filesystem::path trace_file) : trace_path_(std::move(trace_file)) {
  Recorder& r = recorder();
  {
    const std::lock_guard lock(r.mutex);
    r.thread = at::RecordFunction::currentThreadId();
    r.parts = PartTimes(now_ns());
    r.tracing = true;
  }
  start_over();
  handle_ = at::addGlobalCallback(
      at::RecordFunctionCallback(on_start, on_end)
          .scopes({at::RecordScope::FUNCTION, at::RecordScope::BACKWARD_FUNCTION,
                   at::RecordScope::USER_SCOPE}));
}

StepProfile::~StepProfile() { at::removeCallback(handle_); }

void StepProfile::start_over() {
  Recorder& r = recorder();
  const std::lock_guard lock(r.mutex);
  start_ns_ = now_ns();
  counted_ = 0;
  first_traced_ = last_traced_ = 0;
  r.operators.clear();
  r.trace.clear();
  r.parts.reset(start_ns_);
}

void StepProfile::end_step() {
  if (step_ == 0) return;
  Recorder& r = recorder();
  const std::lock_guard lock(r.mutex);
  r.parts.forget_sequences();
  if (r.tracing) {
    r.trace.add({.name = r.trace.name(fmt::format("step {}", step_)),
                 .category = "step",
                 .thread = r.thread,
                 .start_ns = step_start_ns_,
                 .duration_ns = now_ns() - step_start_ns_,
                 .part = r.trace.name(PartTimes::kRest)});
    if (first_traced_ == 0) first_traced_ = step_;
    last_traced_ = step_;
  }
  step_ = 0;
  ++steps_;
  ++counted_;
}

void StepProfile::begin_step(int64_t step) {
  end_step();
  if (steps_ == kWarmUpSteps + kTraceSteps) write_trace();
  if (steps_ == kWarmUpSteps) start_over();
  step_ = step;
  step_start_ns_ = now_ns();
}

void StepProfile::write_trace() {
  Recorder& r = recorder();
  const std::lock_guard lock(r.mutex);
  r.tracing = false;
  const int64_t write_start_ns = now_ns();
  r.parts.update(write_start_ns);
  const std::string steps = fmt::format("steps {}..{}", first_traced_, last_traced_);
  try {
    r.trace.write(trace_path_, "rwkv train, " + steps);
    trace_note_ = fmt::format(
        "trace of {}: {} ({} events{}); open it in ui.perfetto.dev or chrome://tracing", steps,
        trace_path_.string(), r.trace.size(),
        r.trace.left_out() > 0 ? fmt::format(", {} more left out", r.trace.left_out()) : "");
  } catch (const UserError& error) {
    trace_note_ = fmt::format("no trace: {}", error.what());
    spdlog::error("{}; training goes on", trace_note_);
  }
  r.trace.clear();
  const int64_t write_end_ns = now_ns();
  r.parts.skip(write_end_ns);
  start_ns_ += write_end_ns - write_start_ns;
}

std::vector<StepProfile::PartSeconds> StepProfile::parts_per_step() {
  end_step();
  Recorder& r = recorder();
  const std::lock_guard lock(r.mutex);
  r.parts.update(now_ns());
  const auto per_step = [&](int64_t ns) {
    return seconds(ns) / static_cast<double>(std::max<int64_t>(counted_, 1));
  };
  std::vector<PartSeconds> result;
  for (const PartTimes::Part& part : r.parts.parts()) {
    result.push_back({part.name, per_step(part.forward_ns), per_step(part.backward_ns),
                      per_step(part.products_ns)});
  }
  return result;
}

std::string StepProfile::report() {
  end_step();
  if (trace_note_.empty()) write_trace();
  Recorder& r = recorder();
  const std::lock_guard lock(r.mutex);
  const int64_t end_ns = now_ns();
  r.parts.update(end_ns);
  const int64_t wall_ns = end_ns - start_ns_;
  return fmt::format("profile of {} steps, {:.2f} s{}\n\n{}\n{}\n{}\n", counted_, seconds(wall_ns),
                     steps_ == counted_ ? " (with the warm-up of the first steps)" : "",
                     part_table(r.parts, counted_), operator_table(r.operators, wall_ns),
                     trace_note_);
}

}  // namespace rwkv::trainer
