#include "trainer/profile.h"

#include <ATen/record_function.h>
#include <gtest/gtest.h>
#include <torch/torch.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>
#include <thread>

#include "model/factory.h"
#include "model/init.h"
#include "trainer/loss.h"
#include "trainer/part_memory.h"
#include "trainer/part_times.h"
#include "trainer/trace_file.h"

namespace rwkv::trainer {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

Json read_json(const fs::path& path) {
  std::ifstream in(path);
  return Json::parse(in);
}

fs::path temporary(const char* name) {
  return fs::temp_directory_path() /
         (std::string("rwkv_") + name + std::to_string(::getpid()) + ".json");
}

PartTimes::Part part_named(const PartTimes& times, std::string_view name) {
  for (const PartTimes::Part& part : times.parts()) {
    if (part.name == name) return part;
  }
  return {};
}

TEST(PartTimes, InnerPartsTakeTheTimeFromOuterOnes) {
  PartTimes times(100);
  const auto outside = times.enter("block", 110);
  const auto block = times.enter("time_mix", 113);
  times.leave(block, 120);
  times.leave(outside, 121);
  times.update(130);
  EXPECT_EQ(part_named(times, "block").forward_ns, 3 + 1);
  EXPECT_EQ(part_named(times, "time_mix").forward_ns, 7);
  EXPECT_EQ(part_named(times, PartTimes::kRest).forward_ns, 10 + 9);
}

TEST(PartTimes, BackwardBelongsToTheInnermostPartOfItsSequenceNumber) {
  PartTimes times(0);
  // Numbers 5..20 were given in a block, 8 and 9 of them in its time-mix, 20 and 21 in the head.
  const auto outside = times.enter("block", 0);
  const auto block = times.enter("time_mix", 0);
  const int time_mix = times.here().part;
  times.remember_forward(time_mix, 8, 10);
  times.leave(block, 0);
  times.remember_forward(times.here().part, 5, 20);
  times.leave(outside, 0);
  const auto before_head = times.enter("head", 0);
  times.remember_forward(times.here().part, 20, 22);
  times.leave(before_head, 0);

  int64_t now = 0;
  for (const auto& [sequence, name, ns] :
       std::vector<std::tuple<int64_t, std::string, int64_t>>{{21, "head", 1},
                                                              {20, "head", 2},
                                                              {19, "block", 4},
                                                              {10, "block", 8},
                                                              {9, "time_mix", 16},
                                                              {8, "time_mix", 32},
                                                              {7, "block", 64},
                                                              {4, "everything else", 128},
                                                              {-1, "everything else", 256},
                                                              {22, "everything else", 512}}) {
    const auto previous = times.enter_backward(sequence, now);
    EXPECT_EQ(times.name(times.here().part), name) << sequence;
    EXPECT_TRUE(times.here().backward);
    times.leave(previous, now += ns);
  }
  EXPECT_EQ(part_named(times, "head").backward_ns, 1 + 2);
  EXPECT_EQ(part_named(times, "block").backward_ns, 4 + 8 + 64);
  EXPECT_EQ(part_named(times, "time_mix").backward_ns, 16 + 32);
  EXPECT_EQ(part_named(times, PartTimes::kRest).backward_ns, 128 + 256 + 512);
  EXPECT_EQ(part_named(times, "head").forward_ns, 0);

  times.forget_sequences();
  times.leave(times.enter_backward(9, now), now + 1000);
  EXPECT_EQ(part_named(times, "time_mix").backward_ns, 16 + 32);
}

TEST(PartTimes, APartComputedAgainDuringBackwardIsBackward) {
  PartTimes times(0);
  const auto outside = times.enter_backward(-1, 0);
  const auto node = times.enter("time_mix", 5);
  times.leave(node, 12);
  times.leave(outside, 13);
  EXPECT_EQ(part_named(times, "time_mix").backward_ns, 7);
  EXPECT_EQ(part_named(times, "time_mix").forward_ns, 0);
}

TEST(TraceFile, IsBoundedAndEscapesNames) {
  TraceFile trace;
  const int odd = trace.name("a \"quoted\"\n name \xff");
  EXPECT_EQ(trace.name("a \"quoted\"\n name \xff"), odd);
  for (size_t i = 0; i < TraceFile::kMaxEvents + 7; ++i) {
    trace.add({.name = odd,
               .category = "op",
               .thread = 1,
               .start_ns = 5,
               .duration_ns = 1234,
               .part = odd});
  }
  EXPECT_EQ(trace.size(), TraceFile::kMaxEvents);
  EXPECT_EQ(trace.left_out(), 7);
  const fs::path path = temporary("bounded");
  trace.write(path, "title");
  EXPECT_LT(fs::file_size(path), 20'000'000U);
  const Json json = read_json(path);
  EXPECT_EQ(json["otherData"]["events_left_out"], 7);
  EXPECT_EQ(json["traceEvents"].size(), TraceFile::kMaxEvents + 1);
  EXPECT_EQ(json["traceEvents"][1]["dur"], 1.234);
  EXPECT_TRUE(
      json["traceEvents"][1]["name"].get<std::string>().starts_with("a \"quoted\"\n name "));
  fs::remove(path);
}

/// A step opens some hundred of them, and takes milliseconds.
TEST(Scopes, CostNothingWithoutAProfile) {
  constexpr int kScopes = 100'000;
  double best_ns = 1e9;
  for (int repetition = 0; repetition < 5; ++repetition) {
    const auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < kScopes; ++i) {
      RECORD_USER_SCOPE("rwkv::time_mix");
    }
    const std::chrono::duration<double, std::nano> took = std::chrono::steady_clock::now() - start;
    best_ns = std::min(best_ns, took.count() / kScopes);
  }
  std::printf("a scope without a profile: %.1f ns\n", best_ns);
  EXPECT_LT(best_ns, 500);
}

/// Steps of a small model with all that a trainer does in them.
class ProfiledSteps : public ::testing::Test {
 protected:
  void SetUp() override {
    path_ = temporary("trace");
    model_ = model::build_model({.n_layer = 2, .n_embd = 64, .vocab_size = 256});
    model::init_weights(*model_, 1, 1e-2);
    for (auto& parameter : model_->parameters()) parameter.set_requires_grad(true);
  }
  void TearDown() override { fs::remove(path_); }

  void step() {
    for (at::Tensor& parameter : model_->parameters()) parameter.mutable_grad().reset();
    at::Tensor ids;
    {
      RECORD_USER_SCOPE("rwkv::data");
      std::this_thread::sleep_for(std::chrono::milliseconds(3));
      ids = at::arange(128).view({2, 64});
    }
    cross_entropy(model_->forward(ids), ids, {}).backward();
    {
      RECORD_USER_SCOPE("rwkv::after_step");
      const torch::NoGradGuard no_grad;
      model_->forward(ids);
    }
  }

  /// Rows "name forward backward sum share% products%" of the table of parts.
  static std::map<std::string, std::vector<double>> parts_of(const std::string& report) {
    std::map<std::string, std::vector<double>> rows;
    std::istringstream lines(report.substr(report.find("part (milliseconds a step)")));
    std::string line;
    for (std::getline(lines, line); std::getline(lines, line) && !line.empty();) {
      std::string numbers = line.substr(28);
      std::erase(numbers, '%');
      std::istringstream words(numbers);
      const std::string name = line.substr(0, line.find_last_not_of(' ', 27) + 1);
      for (double number = 0; words >> number;) rows[name].push_back(number);
    }
    return rows;
  }

  fs::path path_;
  std::shared_ptr<model::LanguageModel> model_;
};

TEST_F(ProfiledSteps, PartsSumToTheWallTimeAndBackwardIsAttributed) {
  StepProfile profile(path_);
  double wall_ms = 0;
  constexpr int64_t kCounted = 21;
  for (int64_t i = 1; i <= StepProfile::kWarmUpSteps + kCounted; ++i) {
    profile.begin_step(i);
    const auto start = std::chrono::steady_clock::now();
    step();
    const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - start;
    if (i > StepProfile::kWarmUpSteps) wall_ms += took.count() / kCounted;
  }
  const std::string report = profile.report();

  EXPECT_TRUE(report.starts_with("profile of 21 steps")) << report;
  EXPECT_NE(report.find(path_.string()), std::string::npos) << report;
  EXPECT_NE(report.find("aten::mm"), std::string::npos) << report;
  auto rows = parts_of(report);
  ASSERT_EQ(rows.count("all"), 1U) << report;
  EXPECT_NEAR(rows["all"][2], wall_ms, 0.1 * wall_ms) << report;
  double sum_ms = 0;
  for (const auto& [name, row] : rows) {
    ASSERT_EQ(row.size(), 5U) << name;
    if (name != "all") sum_ms += row[2];
  }
  EXPECT_NEAR(sum_ms, rows["all"][2], 0.001 * static_cast<double>(rows.size())) << report;
  EXPECT_LT(rows["everything else"][2], 0.3 * wall_ms) << report;
  for (const char* part :
       {"embedding", "norm_and_residual", "time_mix", "channel_mix", "head", "loss"}) {
    ASSERT_EQ(rows.count(part), 1U) << part << "\n" << report;
    EXPECT_GT(rows[part][0], 0) << part << "\n" << report;
    EXPECT_GT(rows[part][1], 0) << part << "\n" << report;
  }
  EXPECT_GE(rows["data"][0], 21 * 0.003) << report;
  EXPECT_EQ(rows["data"][1], 0) << report;
  EXPECT_GT(rows["after_step"][0], 0) << report;  // its model runs count here
  EXPECT_GT(rows["head"][4], 0) << report;        // matrix products
  EXPECT_EQ(rows["loss"][4], 0) << report;
}

TEST_F(ProfiledSteps, MemoryIsThatOfThePartsThatAllocatedIt) {
  StepProfile profile(path_);
  for (int64_t i = 1; i <= StepProfile::kWarmUpSteps + 2; ++i) profile.begin_step(i), step();
  const std::string report = profile.report();
  const size_t table = report.find("tensors on the CPU (MB)");
  ASSERT_NE(table, std::string::npos) << report;
  std::map<std::string, std::pair<double, double>> rows;
  std::istringstream lines(report.substr(table));
  std::string line;
  for (std::getline(lines, line); std::getline(lines, line) && !line.empty();) {
    std::istringstream numbers(line.substr(28));
    auto& row = rows[line.substr(0, line.find_last_not_of(' ', 27) + 1)];
    numbers >> row.first >> row.second;
  }
  // Of both layers, in floats of 128 tokens: the two sums, h (4 C), r and the value.
  constexpr double kUnit = 2 * 128 * 64 * 4 * 1e-6;
  EXPECT_NEAR(rows["channel_mix"].first, 8 * kUnit, 0.5 * kUnit) << report;
  // k, v, r, and 5 numbers every 32 tokens.
  EXPECT_NEAR(rows["time_mix"].first, (3 + 5.0 / 32) * kUnit, 0.5 * kUnit) << report;
  EXPECT_GE(rows["time_mix"].second, rows["time_mix"].first) << report;
  EXPECT_GE(rows["all (at once)"].second, rows["all (at once)"].first) << report;
}

TEST(PartMemory, CountsBlocksByThePartThatAllocatedThem) {
  PartMemory memory;
  int a = 0, b = 0, c = 0;
  const auto report = [&](int* block, int64_t size) {
    memory.reportMemoryUsage(block, size, 0, 0, at::kCPU);
  };
  memory.set_part(2);
  report(&a, 100);
  report(&b, 50);
  memory.set_part(1);
  report(&c, 7);
  report(&b, -50);  // freed while another part runs
  memory.forward_is_over();
  report(&a, -100);
  report(&a, -100);  // not known any more
  const auto parts = memory.parts();
  ASSERT_EQ(parts.size(), 3U);
  EXPECT_EQ(parts[2].kept, 100);
  EXPECT_EQ(parts[2].largest, 150);
  EXPECT_EQ(parts[2].live, 0);
  EXPECT_EQ(parts[1].kept, 7);
  EXPECT_EQ(memory.peak(), 157);
  memory.reset();
  EXPECT_EQ(memory.parts()[2].largest, 0);
  EXPECT_EQ(memory.peak(), 7);
}

/// Whether each event of a thread lies in or beside every other.
void expect_nested(std::vector<std::pair<int64_t, int64_t>> spans) {
  std::sort(spans.begin(), spans.end(), [](const auto& a, const auto& b) {
    return a.first != b.first ? a.first < b.first : a.second > b.second;
  });
  std::vector<int64_t> open;
  for (const auto& [start, end] : spans) {
    while (!open.empty() && open.back() <= start) open.pop_back();
    if (!open.empty()) {
      ASSERT_LE(end, open.back());
    }
    open.push_back(end);
  }
}

TEST_F(ProfiledSteps, TheTraceHoldsThreeNestedStepsAfterTheWarmUp) {
  {
    StepProfile profile(path_);
    for (int64_t i = 11; i <= 18; ++i) profile.begin_step(i), step();
    EXPECT_NE(profile.report().find("steps 14..16"), std::string::npos);
  }
  const Json json = read_json(path_);
  std::map<int64_t, std::vector<std::pair<int64_t, int64_t>>> spans;
  std::map<std::string, std::set<std::string>> names;
  for (const Json& event : json["traceEvents"]) {
    if (event["ph"] != "X") continue;
    const auto ns = [&](const char* key) { return std::llround(event[key].get<double>() * 1000); };
    spans[event["tid"]].emplace_back(ns("ts"), ns("ts") + ns("dur"));
    names[event["cat"]].insert(event["name"]);
  }
  for (const auto& [thread, of_thread] : spans) expect_nested(of_thread);
  EXPECT_EQ(names["step"], (std::set<std::string>{"step 14", "step 15", "step 16"}));
  EXPECT_TRUE(names["part"].contains("rwkv::time_mix"));
  EXPECT_TRUE(names["op"].contains("aten::mm"));
  EXPECT_TRUE(names["backward"].contains("MmBackward0"));
  // Nodes of the backward pass stand in the part whose forward pass made them.
  std::map<std::string, std::set<std::string>> parts_of_node;
  for (const Json& event : json["traceEvents"]) {
    if (event["ph"] != "X" || event["cat"] != "backward") continue;
    parts_of_node[event["name"]].insert(event["args"]["part"]);
  }
  using Parts = std::set<std::string>;
  EXPECT_EQ(parts_of_node["EmbeddingBackward0"], Parts{"embedding"});
  EXPECT_EQ(parts_of_node["MmBackward0"], Parts{"head"});
  EXPECT_EQ(parts_of_node["NativeLayerNormBackward0"], (Parts{"norm_and_residual", "head"}));
  for (const auto& [name, parts] : parts_of_node) {
    if (name.find("GatedWkvLinear") != std::string::npos) {
      EXPECT_EQ(parts, Parts{"time_mix"});
    }
    if (name.find("NormMixLinear") != std::string::npos) {
      EXPECT_EQ(parts, (Parts{"time_mix", "channel_mix"}));
    }
    if (name.find("ReluSquareLinear") != std::string::npos) {
      EXPECT_EQ(parts, Parts{"channel_mix"});
    }
    if (name.find("CrossEntropy") != std::string::npos) {
      EXPECT_EQ(parts, Parts{"loss"});
    }
  }
}

TEST_F(ProfiledSteps, ARunShorterThanTheWarmUpIsCountedWhole) {
  StepProfile profile(path_);
  for (int64_t i = 1; i <= 3; ++i) profile.begin_step(i), step();
  const std::string report = profile.report();
  EXPECT_TRUE(report.starts_with("profile of 3 steps")) << report;
  EXPECT_NE(report.find("with the warm-up"), std::string::npos) << report;
  EXPECT_NE(report.find("steps 1..3"), std::string::npos) << report;
  EXPECT_GT(read_json(path_)["traceEvents"].size(), 100U);
}

TEST_F(ProfiledSteps, AFolderThatIsGoneCostsTheTraceAlone) {
  StepProfile profile(path_ / "missing" / "trace.json");
  profile.begin_step(1);
  step();
  EXPECT_NE(profile.report().find("no trace: "), std::string::npos);
}

}  // namespace
}  // namespace rwkv::trainer
