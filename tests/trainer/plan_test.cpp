#include "trainer/plan.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "data/base/error.h"

namespace rwkv::trainer {
namespace {

constexpr int64_t kPileVocab = 50277;

model::ModelConfig sized(int64_t layers, int64_t width) {
  model::ModelConfig m;
  m.n_layer = layers;
  m.n_embd = width;
  m.vocab_size = kPileVocab;
  return m;
}

/// The released sizes; millions of parameters and of weights in products, and GFLOP a token.
struct Released {
  const char* name;
  int64_t layers, width;
  double parameters, products, gflop;
};
constexpr std::array kReleased = {Released{"169M", 12, 768, 169.3, 130.6, 0.784},
                                  Released{"430M", 24, 1024, 430.4, 378.6, 2.272},
                                  Released{"1.5B", 24, 2048, 1515.1, 1411.6, 8.470},
                                  Released{"3B", 32, 2560, 2984.6, 2855.0, 17.13},
                                  Released{"7B", 32, 4096, 7392.6, 7185.3, 43.11},
                                  Released{"14B", 40, 5120, 14148.6, 13888.9, 83.33}};

const model::ModelConfig& released(const std::string& name) {
  static model::ModelConfig m;
  for (const Released& row : kReleased) {
    if (row.name == name) m = sized(row.layers, row.width);
  }
  return m;
}

TEST(Plan, CountsParametersAndOperationsOfTheReleasedModels) {
  for (const Released& row : kReleased) {
    SCOPED_TRACE(row.name);
    const model::ModelConfig m = sized(row.layers, row.width);
    EXPECT_NEAR(static_cast<double>(parameter_count(m)) / 1e6, row.parameters, 0.051);
    EXPECT_NEAR(static_cast<double>(product_weights(m)) / 1e6, row.products, 0.051);
    EXPECT_NEAR(6 * static_cast<double>(product_weights(m)) / 1e9, row.gflop, row.gflop * 6e-4);
    const int64_t C = row.width;
    EXPECT_EQ(parameter_count(m), 2 * kPileVocab * C + row.layers * (13 * C * C + 11 * C) + 4 * C);
  }
}

MemoryQuestion question(const model::ModelConfig& m, int64_t devices = 1, int64_t zero = 0) {
  return {.model = m,
          .precision = Precision::kBf16,
          .ctx_len = 1024,
          .micro_bsz = 8,
          .devices = devices,
          .zero = zero};
}

TEST(Plan, StatesTakeSixteenBytesAParameterAndLessWhenShared) {
  const model::ModelConfig m = released("1.5B");
  const auto n = static_cast<double>(parameter_count(m));
  const auto states = [&](int64_t zero) {
    // Buckets of several devices keep their gradients, so all of them are there at any moment.
    const MemoryParts p = peak_memory(question(m, 8, zero));
    return (p.weights + p.masters + p.moments + p.gradients) / n;
  };
  EXPECT_NEAR(states(0), 16, 1e-9);
  EXPECT_NEAR(states(1), 4 + 12.0 / 8, 1e-9);
  EXPECT_NEAR(states(2), 2 + 14.0 / 8, 1e-9);
  EXPECT_NEAR(states(3), 16.0 / 8, 1e-9);
  MemoryQuestion wide = question(m);
  wide.precision = Precision::kFp32;
  const MemoryParts p = peak_memory(wide);
  EXPECT_EQ(p.masters, 0);
  EXPECT_NEAR((p.weights + p.moments) / n, 12, 1e-9);
}

TEST(Plan, ActivationsOfOneLayerAndRecomputation) {
  MemoryQuestion q = question(released("1.5B"));
  // 26 tensors of C (k of the channel mix counts four times, twice) of 2 bytes, and wkv's state.
  EXPECT_NEAR(activation_bytes_per_token_and_layer(q) / 2048, 52, 1);
  const double all = peak_memory(q).activations;
  EXPECT_NEAR(all, 8192.0 * 52 * 2048 * 24, 0.03 * all);
  q.grad_cp = true;
  const double inputs = 8192.0 * 2 * 2048 * 24;
  EXPECT_LT(peak_memory(q).activations, inputs + all / 24 + 8192.0 * 4 * 2048 + 1);
  q.grad_cp = false;
  q.precision = Precision::kFp32;
  EXPECT_NEAR(activation_bytes_per_token_and_layer(q) / 2048, 104, 1);
  q.dropout = true;
  EXPECT_GT(activation_bytes_per_token_and_layer(q) / 2048, 105);
}

TEST(Plan, TheLargestMicroBatchIsTheLastThatFits) {
  for (const int64_t zero : {0, 1, 2, 3}) {
    MemoryQuestion q = question(released("430M"), 8, zero);
    const double bytes = 24e9;
    q.micro_bsz = largest_micro_bsz(q, bytes);
    ASSERT_GT(q.micro_bsz, 0);
    EXPECT_LE(peak_memory(q).total(), bytes);
    q.micro_bsz += 1;
    EXPECT_GT(peak_memory(q).total(), bytes);
  }
  EXPECT_EQ(largest_micro_bsz(question(released("14B")), 24e9), 0);
}

/// The largest released model whose step of 4096 tokens, recomputed, fits.
std::string largest_model(double gigabytes, int64_t devices, int64_t zero) {
  std::string best = "none";
  for (const Released& row : kReleased) {
    MemoryQuestion q = question(sized(row.layers, row.width), devices, zero);
    q.micro_bsz = 4;
    q.grad_cp = true;
    if (peak_memory(q).total() + kGpuReserveBytes <= gigabytes * 1e9) best = row.name;
  }
  return best;
}

TEST(Plan, TheLargestModelsOfTheFamilyByMemoryAndZeroLevel) {
  const std::vector<std::array<const char*, 4>> wanted = {
      {"430M", "3B", "3B", "7B"}, {"1.5B", "3B", "7B", "14B"}, {"3B", "7B", "14B", "14B"}};
  const std::vector<double> gigabytes = {24, 40, 80};
  for (size_t i = 0; i < gigabytes.size(); ++i) {
    SCOPED_TRACE(gigabytes[i]);
    EXPECT_EQ(largest_model(gigabytes[i], 1, 0), wanted[i][0]);
    EXPECT_EQ(largest_model(gigabytes[i], 8, 1), wanted[i][1]);
    EXPECT_EQ(largest_model(gigabytes[i], 8, 2), wanted[i][2]);
    EXPECT_EQ(largest_model(gigabytes[i], 8, 3), wanted[i][3]);
  }
}

/// Microseconds a token on the roofline, products at 100 % of the peak.
struct Roofline {
  const char* device;
  const char* model;
  double products, eager_layers, eager_loss, kernel_layers, kernel_loss;
};

TEST(Plan, TimesOfTheRoofline) {
  const std::vector<Roofline> rows = {{"a100-40", "169M", 2.51, 2.85, 1.36, 1.00, 0.194},
                                      {"a100-40", "1.5B", 27.1, 15.2, 1.36, 5.31, 0.194},
                                      {"a100-40", "14B", 267, 63.2, 1.36, 22.1, 0.194},
                                      {"h100", "430M", 2.29, 3.52, 0.63, 1.23, 0.090},
                                      {"h100", "14B", 84.2, 29.3, 0.63, 10.3, 0.090}};
  for (const Roofline& row : rows) {
    SCOPED_TRACE(fmt::format("{} {}", row.device, row.model));
    const MemoryQuestion q = question(released(row.model));
    const Device* device = find_device(row.device);
    ASSERT_NE(device, nullptr);
    const double tokens = 8192;
    const StepTime eager = step_time(q, tokens, *device, kEagerTraffic);
    const StepTime kernels = step_time(q, tokens, *device, kOneKernelTraffic);
    const auto near = [](double value, double wanted) {
      EXPECT_NEAR(value, wanted, 0.01 * wanted);
    };
    near(eager.products / tokens * 1e6 * kProductShare, row.products);
    near(eager.traffic / tokens * 1e6, row.eager_layers + row.eager_loss);
    near(kernels.traffic / tokens * 1e6, row.kernel_layers + row.kernel_loss);
    EXPECT_GT(kernels.tokens_per_s, eager.tokens_per_s);
  }
  // Adam reads and writes 30 bytes a parameter: 29 ms of a 1.5B on an A100, an eighth under ZeRO-1.
  const StepTime one = step_time(question(released("1.5B")), 8192, kDevices[0], kEagerTraffic);
  EXPECT_NEAR(one.update, 29.2e-3, 0.3e-3);
  const StepTime eight =
      step_time(question(released("1.5B"), 8, 1), 8192, kDevices[0], kEagerTraffic);
  EXPECT_NEAR(eight.update, one.update / 8, 1e-6);
}

TEST(Plan, CommunicationOfAStep) {
  const MemoryQuestion small = question(released("1.5B"), 8, 1);
  EXPECT_NEAR(communication_bytes(small) / 1e9, 5.3, 0.05);
  EXPECT_NEAR(communication_bytes(small) / kDevices[0].bus_bytes_per_s * 1e3, 23, 0.2);
  EXPECT_NEAR(communication_bytes(question(released("14B"), 64, 2)) / 1e9, 56, 0.5);
  EXPECT_NEAR(communication_bytes(question(released("14B"), 64, 3)) / 1e9, 84, 0.7);
  EXPECT_EQ(communication_bytes(question(released("14B"))), 0);
  // Hidden when a step is long, exposed when it is short: 610 tokens at 45 % utilisation.
  const Device& device = kDevices[0];
  EXPECT_EQ(step_time(small, 8192, device, kEagerTraffic).exposed, 0);
  MemoryQuestion tiny = small;
  tiny.micro_bsz = 1;
  tiny.ctx_len = 128;
  EXPECT_GT(step_time(tiny, 128, device, kEagerTraffic).exposed, 0);
}

RunConfig config(const std::string& name, const std::vector<std::string>& overrides = {}) {
  return load_run_config(std::string(RWKV_CONFIGS_DIR) + "/" + name, overrides);
}

TEST(Plan, FollowsTheScheduleOfTheConfiguration) {
  const SchedulePoints points = schedule_points(config("pile-169m.yaml"), 1);
  EXPECT_EQ(points.steps, 10131836);  // 332e9 tokens of 32 windows of 1024
  EXPECT_NEAR(points.tokens.back(), 332e9, 1e9);
  EXPECT_EQ(points.lr.front(), 6e-4);
  EXPECT_NEAR(points.lr.back(), 1e-5, 1e-7);
  ASSERT_EQ(points.changes.size(), 2U);
  EXPECT_EQ(points.changes[1].what, "betas 0.9, 0.999");
  EXPECT_NEAR(points.changes[1].tokens, 15e9, 332e9 / 14400);
  // Eight devices take eight times the batch.
  EXPECT_EQ(schedule_points(config("pile-169m.yaml"), 8).steps, 1266480);
}

TEST(Plan, PrintsNoLineThatATerminalCutsAndMarksWhatIsNotBuilt) {
  for (const char* name : {"pile-169m.yaml", "pile-14b.yaml", "enwik8-rwkv2.yaml"}) {
    RunConfig c = config(name);
    if (c.model.vocab_size == 0) c.model.vocab_size = 6064;
    const std::string text = plan_text(c, {.devices = 8, .device = *find_device("a100-80")});
    std::istringstream lines(text);
    for (std::string line; std::getline(lines, line);) EXPECT_LE(line.size(), 100U) << line;
    for (const char* part : {"parameters", "FLOPs", "ZeRO-0", "ZeRO-1, recomputed", "(not built)",
                             "Communication", "tokens/s", "Learning rate", "data sheet"}) {
      EXPECT_NE(text.find(part), std::string::npos) << name << " lacks " << part << ":\n" << text;
    }
    EXPECT_EQ(text.find("ZeRO-1 (not built)"), std::string::npos);
  }
}

TEST(Plan, JsonHoldsTheSameNumbers) {
  const RunConfig c = config("pile-1b5.yaml");
  const auto json =
      nlohmann::json::parse(plan_json(c, {.devices = 8, .device = *find_device("a100-40")}));
  EXPECT_EQ(json["parameters"], parameter_count(c.model));
  EXPECT_EQ(json["memory"].size(), 8U);
  for (const auto& row : json["memory"]) {
    const double sum = row["weights_bytes"].get<double>() + row["masters_bytes"].get<double>() +
                       row["moments_bytes"].get<double>() + row["gradients_bytes"].get<double>() +
                       row["activations_bytes"].get<double>() + row["logits_bytes"].get<double>() +
                       row["workspace_bytes"].get<double>() + row["overhead_bytes"].get<double>();
    EXPECT_NEAR(sum, row["peak_bytes"].get<double>(), 1);
    EXPECT_EQ(row["built"], row["zero"].get<int>() <= 1);
  }
  EXPECT_LT(json["speed"][0]["tokens_per_s"], json["speed"][1]["tokens_per_s"]);
}

TEST(Plan, AModelBeyondTheMachineIsRefusedAndATightOneWarnedOf) {
  RunConfig c = config("pile-14b.yaml");
  try {
    static_cast<void>(check_memory(c, 24e9));
    FAIL() << "accepted";
  } catch (const UserError& error) {
    const std::string message = error.what();
    EXPECT_NE(message.find("14.15 G parameters need 226.4 GB"), std::string::npos) << message;
    EXPECT_EQ(message.find('\n'), std::string::npos);
  }
  c.model = sized(12, 768);
  c.train.micro_bsz = 64;
  c.train.grad_cp = false;
  EXPECT_NE(check_memory(c, 24e9).find("train.micro_bsz"), std::string::npos);
  c.train.micro_bsz = 1;
  EXPECT_EQ(check_memory(c, 24e9), "");
}

}  // namespace
}  // namespace rwkv::trainer
