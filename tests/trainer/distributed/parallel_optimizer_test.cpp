// Ranks as processes of their own, with real stores and real collectives between them.
#include "trainer/distributed/parallel_optimizer.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <torch/torch.h>
#include <unistd.h>

#include <array>
#include <cmath>
#include <cstdio>
#include <functional>
#include <string>
#include <vector>

#include "data/base/error.h"
#include "trainer/distributed/agreement.h"
#include "trainer/distributed/store.h"
#include "trainer/exit_code.h"

namespace rwkv::trainer {
namespace {

/// Runs `work` as each rank of a group, in a process each: c10d is made for one rank in a process.
void as_ranks(int64_t world_size, const std::function<void(RankGroup&)>& work) {
  const HostedStore store = host_local_store();
  std::vector<pid_t> ranks;
  for (int64_t rank = 0; rank < world_size; ++rank) {
    const pid_t pid = ::fork();
    ASSERT_GE(pid, 0);
    if (pid > 0) {
      ranks.push_back(pid);
      continue;
    }
    try {
      at::set_num_threads(1);
      RankEnvironment environment;
      environment.rank = rank;
      environment.world_size = world_size;
      environment.master_addr = "127.0.0.1";
      environment.master_port = store.port;
      environment.store_is_hosted = true;
      RankGroup group(environment, {.timeout = std::chrono::seconds(20), .build = "test"});
      work(group);
      group.finish();
    } catch (const std::exception& error) {
      ADD_FAILURE() << "rank " << rank << ": " << error.what();
    }
    std::fflush(nullptr);
    ::_exit(::testing::Test::HasFailure() ? 1 : 0);
  }
  for (const pid_t pid : ranks) {
    int status = -1;
    ::waitpid(pid, &status, 0);
    EXPECT_EQ(status, 0) << "a rank failed; what it said stands above";
  }
}

constexpr int64_t kRows = 16;  // of the whole batch

/// Sizes that fill no vector unit and straddle shards.
struct Network {
  std::vector<OptimizedParameter> parameters;

  explicit Network(at::ScalarType type) {
    at::Generator generator = at::detail::createCPUGenerator(7);
    const auto add = [&](const std::string& name, at::IntArrayRef shape, double lr_scale) {
      const at::Tensor master = at::randn(shape, generator) * 0.1;
      OptimizedParameter parameter{name, master.to(type, false, true).requires_grad_(), lr_scale};
      if (type != at::kFloat) parameter.master = master;
      parameters.push_back(parameter);
    };
    add("first", {13, 101}, 1.0);
    add("frozen", {101}, 1.0);
    add("bias", {101}, 2.0);
    add("second", {101, 67}, 1.0);
    add("scale", {1}, 3.0);
    add("third", {67, 5}, 1.0);
    parameters[1].value.requires_grad_(false);
  }
  [[nodiscard]] at::Tensor loss(const at::Tensor& x) const {
    const auto& p = parameters;
    const at::Tensor h = at::tanh(at::matmul(x, p[0].value) + p[1].value + p[2].value);
    const at::Tensor y = at::matmul(at::tanh(at::matmul(h, p[3].value)) * p[4].value, p[5].value);
    return y.to(at::kFloat).square().mean();
  }
};

struct Outcome {
  std::vector<at::Tensor> values;
  std::vector<double> norms;
  ParallelOptimizer::NamedTensors masters;
  ParallelOptimizer::NamedTensors moments;
};

/// Some steps over the same batches, whatever the number of ranks.
Outcome train(RankGroup& group, at::ScalarType type, const DistributedConfig& distributed,
              int64_t passes) {
  Network network(type);
  OptimizerConfig config;
  config.weight_decay = 0.01;
  ParallelOptimizer optimizer(group, network.parameters, config, distributed);
  Outcome outcome;
  for (int64_t step = 0; step < 5; ++step) {
    at::Generator generator = at::detail::createCPUGenerator(static_cast<uint64_t>(step));
    const at::Tensor batch = at::randn({kRows, 13}, generator).to(type);
    const int64_t rows = kRows / group.world_size() / passes;
    for (int64_t pass = 0; pass < passes; ++pass) {
      const int64_t first = (group.rank() * passes + pass) * rows;
      optimizer.before_backward(pass == passes - 1);
      (network.loss(batch.narrow(0, first, rows)) * rows / kRows).backward();
      optimizer.after_backward(passes);
    }
    outcome.norms.push_back(optimizer.gradient_norm());
    optimizer.step({.lr = 0.01, .betas = {0.9, 0.99}, .weight_decay = 0.01}, outcome.norms.back(),
                   1);
    optimizer.zero_grad();
  }
  for (const OptimizedParameter& p : network.parameters) {
    outcome.values.push_back(p.value.detach().clone());
  }
  outcome.masters = optimizer.masters();
  for (auto& [name, tensor] : outcome.masters) tensor = tensor.clone();
  outcome.moments = optimizer.moments_to_write();
  for (auto& [name, tensor] : outcome.moments) tensor = tensor.clone();
  return outcome;
}

void expect_equal(const ParallelOptimizer::NamedTensors& a,
                  const ParallelOptimizer::NamedTensors& b) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    EXPECT_EQ(a[i].first, b[i].first);
    EXPECT_TRUE(at::equal(a[i].second, b[i].second)) << a[i].first;
  }
}

TEST(ParallelOptimizer, RanksAgreeWithOneProcess) {
  for (const int64_t world_size : {2, 4}) {
    as_ranks(world_size, [](RankGroup& group) {
      RankGroup alone;
      const Outcome single = train(alone, at::kFloat, {}, 1);
      DistributedConfig several_buckets;
      several_buckets.bucket_mib = 0.005;
      const Outcome outcome = train(group, at::kFloat, several_buckets, 2);
      for (size_t i = 0; i < single.values.size(); ++i) {
        EXPECT_TRUE(at::allclose(outcome.values[i], single.values[i], 0, 1e-5)) << i;
        const std::string sum =
            fmt::format("{:a}", outcome.values[i].to(at::kDouble).sum().item<double>());
        EXPECT_TRUE(ranks_that_differ(group.exchange("values", sum)).empty()) << i;
      }
      for (size_t s = 0; s < single.norms.size(); ++s) {
        EXPECT_NEAR(outcome.norms[s], single.norms[s], 1e-6 * single.norms[s]);
      }
      const auto written = static_cast<double>(outcome.moments.size());
      EXPECT_EQ(group.sum(written), static_cast<double>(single.moments.size()));
    });
  }
}

TEST(ParallelOptimizer, ZeroOneIsEqualToTheLastBit) {
  for (const int64_t world_size : {2, 3, 4}) {
    as_ranks(world_size, [](RankGroup& group) {
      for (const auto type : {at::kFloat, at::kBFloat16}) {
        for (const auto reduce : {ReducePrecision::kFp32, ReducePrecision::kBf16}) {
          const int64_t passes = group.world_size() == 4 ? 2 : 1;
          DistributedConfig plain;
          plain.reduce = reduce;
          plain.bucket_mib = group.world_size() == 2 ? 25 : 0.005;  // one bucket or several
          DistributedConfig zero = plain;
          zero.zero = 1;
          const Outcome expected = train(group, type, plain, passes);
          const Outcome outcome = train(group, type, zero, passes);
          EXPECT_EQ(outcome.norms, expected.norms);
          for (size_t i = 0; i < outcome.values.size(); ++i) {
            EXPECT_TRUE(at::equal(outcome.values[i], expected.values[i])) << i;
          }
          expect_equal(outcome.masters, expected.masters);
          expect_equal(outcome.moments, expected.moments);
        }
      }
    });
  }
}

TEST(GradientBuckets, TravelWhileTheBackwardStillRunsAndOnlyInTheLastPass) {
  as_ranks(2, [](RankGroup& group) {
    Network network(at::kFloat);
    std::vector<at::Tensor> values;
    for (const OptimizedParameter& p : network.parameters) values.push_back(p.value);
    GradientBuckets buckets(group, values, {.bucket_bytes = 5000});
    ASSERT_GE(buckets.layout().size(), 3U);
    size_t sent_before_the_first_layer = 0;
    values[0].register_hook([&](const at::Tensor& gradient) {
      sent_before_the_first_layer = buckets.sent();
      return gradient;
    });
    const at::Tensor x = at::ones({4, 13});
    buckets.before_backward(/*last=*/false);
    network.loss(x).backward();
    EXPECT_EQ(buckets.sent(), 0U);
    buckets.before_backward(/*last=*/true);
    network.loss(x).backward();
    EXPECT_GE(sent_before_the_first_layer, 2U);
    EXPECT_EQ(buckets.sent(), buckets.layout().size());
    buckets.finish();
    // Two equal passes on two equal ranks: four times the gradient of one.
    const at::Tensor one = torch::autograd::grad({network.loss(x)}, {values[5]})[0];
    const Bucket& first = buckets.layout().front();
    ASSERT_EQ(first.slots.front().parameter, 5U);
    EXPECT_TRUE(at::equal(buckets.gradient(0, first.slots.front()), (one * 4).view({-1})));
  });
}

TEST(ParallelOptimizer, TheFirstGradientThatIsNotFiniteIsNamed) {
  as_ranks(2, [](RankGroup& group) {
    Network network(at::kFloat);
    ParallelOptimizer optimizer(group, network.parameters, {}, {});
    at::Tensor x = at::ones({4, 13});
    if (group.rank() == 1) x[2][3] = INFINITY;
    optimizer.before_backward(/*last=*/false);
    network.loss(x * network.parameters[4].value.detach()).backward();
    EXPECT_EQ(optimizer.first_nonfinite_own_gradient(), group.rank() == 1 ? "first" : "");
  });
}

TEST(RankGroup, TextsNumbersAndDifferencesAreByRank) {
  as_ranks(3, [](RankGroup& group) {
    for (int i = 0; i < 3; ++i) {
      EXPECT_EQ(group.exchange("x", std::to_string(group.rank() * 10 + i)),
                (std::vector<std::string>{std::to_string(i), std::to_string(10 + i),
                                          std::to_string(20 + i)}));
    }
    EXPECT_EQ(group.from_main("y", std::to_string(group.rank())), "0");
    const std::array<double, 2> own = {static_cast<double>(group.rank()), 0.5};
    EXPECT_EQ(group.gather(own), (std::vector<double>{0, 0.5, 1, 0.5, 2, 0.5}));
    EXPECT_EQ(group.sum(static_cast<double>(group.rank())), 3);
    try {
      agree_on(group, "the flavour", group.rank() == 1 ? "sour" : "sweet", "make it sweet");
      ADD_FAILURE() << "rank " << group.rank() << " noticed nothing";
    } catch (const UserError& error) {
      EXPECT_NE(std::string(error.what()).find("the flavour: rank 1 (process"), std::string::npos)
          << error.what();
    }
  });
  EXPECT_EQ(ranks_that_differ({"a", "a", "b", "a"}), (std::vector<int64_t>{2}));
  EXPECT_EQ(ranks_that_differ({"a", "b"}), (std::vector<int64_t>{1}));
  EXPECT_TRUE(ranks_that_differ({"a", "a"}).empty());
}

TEST(RankGroup, WorldSizesThatDoNotDivideTheBatchAreRefusedWithThoseThatDo) {
  RunConfig config;
  config.train.micro_bsz = 6;
  config.train.grad_accum = 2;
  EXPECT_NO_THROW(check_world_size(config, 4));
  try {
    check_world_size(config, 5);
    FAIL();
  } catch (const UserError& error) {
    EXPECT_NE(std::string(error.what()).find("start 1, 2, 3, 4, 6, 12 of them"), std::string::npos)
        << error.what();
  }
  Segment segment;
  segment.until = 5;
  segment.real_bsz = 18;
  config.schedule.segments.push_back(segment);
  EXPECT_THROW(check_world_size(config, 4), UserError);
  EXPECT_NO_THROW(check_world_size(config, 6));
}

}  // namespace
}  // namespace rwkv::trainer
