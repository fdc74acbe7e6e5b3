// Ranks as threads of one process, with real stores and real collectives between them.
#include "trainer/distributed/parallel_optimizer.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>
#include <functional>
#include <thread>

#include "data/base/error.h"
#include "trainer/distributed/agreement.h"
#include "trainer/distributed/store.h"
#include "trainer/exit_code.h"

namespace rwkv::trainer {
namespace {

/// Runs `work` as each rank of a group; what one throws is thrown here after all have ended.
void as_ranks(int64_t world_size, const std::function<void(RankGroup&)>& work) {
  const HostedStore store = host_local_store();
  std::vector<std::exception_ptr> thrown(static_cast<size_t>(world_size));
  std::vector<std::thread> threads;
  for (int64_t rank = 0; rank < world_size; ++rank) {
    threads.emplace_back([&, rank] {
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
      } catch (...) {
        thrown[static_cast<size_t>(rank)] = std::current_exception();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const std::exception_ptr& error : thrown) {
    if (error) std::rethrow_exception(error);
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

/// One outcome for each rank.
std::vector<Outcome> train_on(int64_t world_size, at::ScalarType type,
                              const DistributedConfig& distributed, int64_t passes = 1) {
  std::vector<Outcome> outcomes(static_cast<size_t>(world_size));
  as_ranks(world_size, [&](RankGroup& group) {
    outcomes[static_cast<size_t>(group.rank())] = train(group, type, distributed, passes);
  });
  return outcomes;
}

std::map<std::string, at::Tensor> all_moments(const std::vector<Outcome>& outcomes) {
  std::map<std::string, at::Tensor> moments;
  for (const Outcome& outcome : outcomes) {
    for (const auto& [name, tensor] : outcome.moments) {
      EXPECT_TRUE(moments.emplace(name, tensor).second) << name << " is written twice";
    }
  }
  return moments;
}

TEST(ParallelOptimizer, RanksAgreeWithOneProcess) {
  RankGroup alone;
  const Outcome single = train(alone, at::kFloat, {}, 1);
  for (const int64_t world_size : {2, 4}) {
    const auto outcomes = train_on(world_size, at::kFloat, {}, 2);
    for (const Outcome& outcome : outcomes) {
      for (size_t i = 0; i < single.values.size(); ++i) {
        EXPECT_TRUE(at::equal(outcome.values[i], outcomes.front().values[i]));
        EXPECT_TRUE(at::allclose(outcome.values[i], single.values[i], 0, 1e-5)) << i;
      }
      for (size_t s = 0; s < single.norms.size(); ++s) {
        EXPECT_NEAR(outcome.norms[s], single.norms[s], 1e-6 * single.norms[s]);
      }
    }
    EXPECT_EQ(all_moments(outcomes).size(), single.moments.size());
  }
}

TEST(ParallelOptimizer, ZeroOneIsEqualToTheLastBit) {
  for (const auto type : {at::kFloat, at::kBFloat16}) {
    for (const auto reduce : {ReducePrecision::kFp32, ReducePrecision::kBf16}) {
      for (const int64_t world_size : {2, 3, 4}) {
        const int64_t passes = world_size == 4 ? 2 : 1;
        DistributedConfig plain;
        plain.reduce = reduce;
        DistributedConfig zero = plain;
        zero.zero = 1;
        const auto expected = train_on(world_size, type, plain, passes);
        const auto outcomes = train_on(world_size, type, zero, passes);
        for (size_t r = 0; r < outcomes.size(); ++r) {
          EXPECT_EQ(outcomes[r].norms, expected[r].norms);
          for (size_t i = 0; i < outcomes[r].values.size(); ++i) {
            EXPECT_TRUE(at::equal(outcomes[r].values[i], expected[r].values[i])) << i;
          }
        }
        ASSERT_EQ(outcomes[0].masters.size(), expected[0].masters.size());
        for (size_t i = 0; i < outcomes[0].masters.size(); ++i) {
          EXPECT_TRUE(at::equal(outcomes[0].masters[i].second, expected[0].masters[i].second));
        }
        const auto moments = all_moments(outcomes);
        for (const auto& [name, tensor] : all_moments(expected)) {
          ASSERT_TRUE(moments.contains(name)) << name;
          EXPECT_TRUE(at::equal(moments.at(name), tensor)) << name;
        }
      }
    }
  }
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
  config.schedule.segments.push_back({.until = 5, .real_bsz = 18});
  EXPECT_THROW(check_world_size(config, 4), UserError);
  EXPECT_NO_THROW(check_world_size(config, 6));
}

}  // namespace
}  // namespace rwkv::trainer
