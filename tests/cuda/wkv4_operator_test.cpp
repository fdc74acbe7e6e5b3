// The WKV-4 operator as LibTorch sees it: registration, checks, devices, threads.
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <atomic>
#include <mutex>
#include <set>
#include <thread>

#include "cuda/wkv4_cpu.h"
#include "tests/cuda/wkv4_twin.h"

namespace rwkv::ops {
namespace {

#if defined(RWKV_CUDA)
constexpr bool kBuiltWithCuda = true;
#else
constexpr bool kBuiltWithCuda = false;
#endif

std::string error_of(const Wkv4Case& in) {
  try {
    run(in);
  } catch (const c10::Error& error) {
    return error.what_without_backtrace();
  }
  return "no error";
}

void expect_error(const Wkv4Case& in, const std::vector<std::string>& parts) {
  const std::string message = error_of(in);
  for (const std::string& part : parts) {
    EXPECT_NE(message.find(part), std::string::npos) << "'" << part << "' not in: " << message;
  }
}

TEST(Wkv4Operator, SchemasAreRegistered) {
  for (const char* name : {"rwkv::wkv4", "rwkv::wkv4_train", "rwkv::wkv4_backward"}) {
    const auto op = c10::Dispatcher::singleton().findSchema({name, ""});
    ASSERT_TRUE(op.has_value()) << name;
    EXPECT_TRUE(op->hasKernelForDispatchKey(c10::DispatchKey::CPU)) << name;
    EXPECT_TRUE(op->hasKernelForDispatchKey(c10::DispatchKey::Meta)) << name;
    EXPECT_EQ(op->hasKernelForDispatchKey(c10::DispatchKey::CUDA), kBuiltWithCuda) << name;
  }
  const auto op = c10::Dispatcher::singleton().findSchemaOrThrow("rwkv::wkv4", "");
  EXPECT_EQ(op.schema().arguments().size(), 8);
  EXPECT_EQ(op.schema().arguments()[4].name(), "reset");
}

TEST(Wkv4Operator, WrongShapesNameBothValues) {
  const Wkv4Case good = random_case(2, 3, 4);
  Wkv4Case in = good;
  in.v = at::zeros({2, 3, 5});
  expect_error(in, {"v has shape", "[2, 3, 5]", "[2, 3, 4]"});
  in = good;
  in.k = at::zeros({3, 4});
  expect_error(in, {"k has 2 dimensions", "(B, T, C)"});
  in = good;
  in.time_decay = at::zeros({5});
  expect_error(in, {"time_decay has shape [5]", "[4]"});
  in = good;
  in.time_first = at::zeros({4, 1});
  expect_error(in, {"time_first has shape [4, 1]", "[4]"});
  in = good;
  in.reset = at::zeros({3, 2}, at::kBool);
  expect_error(in, {"reset has shape [3, 2]", "[2, 3]"});
  in = good;
  in.state = random_state(1, 4);
  expect_error(in, {"state a has shape [1, 4]", "[2, 4]"});
}

TEST(Wkv4Operator, WrongTypesNameBothValues) {
  const Wkv4Case good = random_case(2, 3, 4);
  Wkv4Case in = good;
  in.v = good.v.to(at::kDouble);
  expect_error(in, {"v is Double", "expected Float"});
  in = good;
  in.k = good.k.to(at::kLong);
  expect_error(in, {"k is Long", "Float, BFloat16, Half or Double"});
  in = good;
  in.time_decay = good.time_decay.to(at::kBFloat16);
  expect_error(in, {"time_decay is BFloat16", "k is Float"});
  in = good;
  in.k = good.k.to(at::kHalf);
  in.v = good.v.to(at::kHalf);
  in.time_first = good.time_first.to(at::kBFloat16);
  expect_error(in, {"time_first is BFloat16", "k is Half"});
  in = good;
  in.reset = at::zeros({2, 3});
  expect_error(in, {"reset is Float", "expected Bool"});
  in = good;
  in.state = random_state(2, 4, at::kDouble);
  expect_error(in, {"state a is Double", "expected Float"});
}

TEST(Wkv4Operator, StateIsGivenWholeOrNotAtAll) {
  Wkv4Case in = random_case(2, 3, 4);
  in.state.a = at::zeros({2, 4});
  expect_error(in, {"needs a, b and p or none"});
}

TEST(Wkv4Operator, MixedDevicesNameBoth) {
  if (!test_device().is_cpu()) GTEST_SKIP() << "inputs move to one device";
  Wkv4Case in = random_case(2, 3, 4);
  in.v = in.v.to(at::kMeta);
  expect_error(in, {"v is on meta", "k is on cpu"});
}

TEST(Wkv4Operator, MetaDeviceGivesShapesAndGradientShapes) {
  if (!test_device().is_cpu()) GTEST_SKIP() << "inputs move to another device";
  Wkv4Case in = random_case(2, 3, 4);
  for (at::Tensor* x : {&in.time_decay, &in.time_first, &in.k, &in.v}) *x = x->to(at::kMeta);
  in.k.requires_grad_();
  const Wkv4Result out = run(in);
  EXPECT_TRUE(out.y.is_meta());
  EXPECT_EQ(out.y.sizes(), at::IntArrayRef({2, 3, 4}));
  EXPECT_EQ(out.b.sizes(), at::IntArrayRef({2, 4}));
  const auto grad = torch::autograd::grad({out.y.sum()}, {in.k})[0];
  EXPECT_EQ(grad.sizes(), in.k.sizes());
  in.v = at::empty({2, 3, 5}, at::kMeta);
  expect_error(in, {"v has shape [2, 3, 5]"});
}

TEST(Wkv4Operator, SecondDerivativesAreRefused) {
  Wkv4Case in = random_case(1, 3, 4);
  in.k.requires_grad_();
  const at::Tensor loss = run(in).y.sum();
  try {
    torch::autograd::grad({loss}, {in.k}, {}, /*retain_graph=*/true, /*create_graph=*/true);
    FAIL() << "no error";
  } catch (const c10::Error& error) {
    EXPECT_NE(std::string(error.what()).find("create_graph"), std::string::npos);
  }
}

TEST(Wkv4Operator, BackwardNeedsNoGradientOfUnusedInputs) {
  at::manual_seed(1);
  Wkv4Case in = random_case(2, 40, 8);
  const at::Tensor gy = at::randn(in.k.sizes());
  const auto all = gradients(run, in, gy);
  in.time_first.requires_grad_();
  const auto only = torch::autograd::grad({(run(in).y * gy).sum()}, {in.time_first})[0];
  EXPECT_TRUE(at::equal(only, all[1]));
}

class Threads {
 public:
  explicit Threads(int count) : before_(at::get_num_threads()) { at::set_num_threads(count); }
  ~Threads() { at::set_num_threads(before_); }
  Threads(const Threads&) = delete;
  Threads& operator=(const Threads&) = delete;

 private:
  int before_;
};

TEST(Wkv4Threads, LibraryRunsPiecesOnTwoThreads) {
  const Threads two(2);
  std::mutex mutex;
  std::set<std::thread::id> seen;
  std::atomic<int64_t> pieces{0};
  parallel_pieces(8, 1, [&](int64_t begin, int64_t end) {
    const std::lock_guard lock(mutex);
    seen.insert(std::this_thread::get_id());
    pieces += end - begin;
  });
  EXPECT_EQ(pieces, 8);
  EXPECT_EQ(seen.size(), 2) << "is the library built without OpenMP?";
}

TEST(Wkv4Threads, ResultDoesNotDependOnTheirNumber) {
  for (const auto type : {at::kFloat, at::kBFloat16, at::kHalf}) {
    for (const int64_t B : {1, 3, 4}) {
      at::manual_seed(2);
      Wkv4Case in = random_case(B, 150, 200);
      in.k = in.k.to(type);
      in.v = in.v.to(type);
      in.state = random_state(B, 200);
      const at::Tensor gy = at::randn(in.k.sizes()).to(type);
      std::vector<std::vector<at::Tensor>> results;
      for (const int count : {1, 2, 3}) {
        const Threads threads(count);
        results.push_back(gradients(run, in, gy));
        results.back().push_back(run(in).y);
      }
      for (size_t i = 0; i < results[0].size(); ++i) {
        EXPECT_TRUE(at::equal(results[0][i], results[1][i])) << B << " " << i;
        EXPECT_TRUE(at::equal(results[0][i], results[2][i])) << B << " " << i;
      }
    }
  }
}

}  // namespace
}  // namespace rwkv::ops
