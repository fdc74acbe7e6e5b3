#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <functional>

#include "trainer/machine_check.h"
#include "trainer/machine_facts.h"

namespace rwkv::trainer {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kGB = 1'000'000'000;

/// A machine on which nothing is wrong.
MachineFacts good_machine() {
  MachineFacts facts;
  facts.build = {"0.1.0", "GNU 12.2.0", "Release", "-O3 -DNDEBUG"};
  facts.libtorch = {"2.11.0", "2.11.0", "/opt/libtorch_cpu.so", {"/opt/libgomp.so.1"}};
  facts.cpu.name = "a processor";
  facts.cpu.logical = 16;
  facts.cpu.physical = 8;
  facts.cpu.allowed = 16;
  facts.cpu.load = 0.3;
  facts.cpu.instruction_sets = {"sse4_2",  "avx",      "avx2",     "fma",
                                "avx512f", "avx512dq", "avx512bw", "avx512vl"};
  facts.cpu.torch_capability = facts.cpu.wkv_capability = "AVX512";
  facts.threads = {8, 8};
  facts.memory = {64 * kGB, 50 * kGB, std::nullopt, 0, 8 * kGB, 0};
  facts.disk = {"/home/me", 500 * kGB, true};
  facts.limits = {1024, 4096, std::nullopt, std::nullopt};
  facts.speed = SpeedFacts{1e11, 7e11, 2e11, 1.4e12, 1e10, 6e10};
  return facts;
}

struct Case {
  const char* name;
  std::function<void(MachineFacts&)> change;
  Severity severity;
  const char* topic;
  const char* what;  // part of the sentence
  const char* mend;
};

const Case kCases[] = {
    {"Debug", [](MachineFacts& f) { f.build.type = "Debug", f.build.flags = "-g"; },
     Severity::kWarning, "build", "without optimisation", "scripts/build"},
    {"OtherLibTorch", [](MachineFacts& f) { f.libtorch.loaded_version = "2.12.0"; },
     Severity::kError, "libtorch", "2.12.0 is loaded from /opt/libtorch_cpu.so", "LD_LIBRARY_PATH"},
    {"TwoOpenMps",
     [](MachineFacts& f) { f.libtorch.openmp_runtimes.push_back("/usr/libiomp5.so"); },
     Severity::kError, "libtorch", "2 OpenMP runtimes", "LD_PRELOAD"},
    {"GpuUnused",
     [](MachineFacts& f) {
       f.cuda.devices = {{"a GPU", 80}};
     },
     Severity::kWarning, "cuda", "a GPU (a GPU), and this is a CPU build", "CUDA"},
    {"NoDriver", [](MachineFacts& f) { f.cuda.architectures = {"80"}; }, Severity::kWarning, "cuda",
     "no CUDA driver", "driver"},
    {"NoDevice",
     [](MachineFacts& f) {
       f.cuda = {{"80"}, "13.0", "13.0", "no CUDA-capable device", {}, "", ""};
     },
     Severity::kWarning, "cuda", "no CUDA-capable device", "CUDA_VISIBLE_DEVICES"},
    {"OldDriver",
     [](MachineFacts& f) {
       f.cuda = {{"80"}, "13.0", "12.4", "", {{"a GPU", 80}}, "", ""};
     },
     Severity::kError, "cuda", "supports CUDA 12.4, and this build needs 13.0", "newer driver"},
    {"OtherArchitecture",
     [](MachineFacts& f) {
       f.cuda = {{"80-real"}, "13.0", "13.0", "", {{"a GPU", 75}}, "", ""};
     },
     Severity::kError, "cuda", "capability 7.5, and this build has code for 80-real",
     "CMAKE_CUDA_ARCHITECTURES=75"},
    {"TorchForced",
     [](MachineFacts& f) {
       f.cpu.torch_capability = "AVX2";
       f.environment["ATEN_CPU_CAPABILITY"] = "avx2";
     },
     Severity::kWarning, "instructions",
     "LibTorch runs AVX2 code, and this processor has AVX512: ATEN_CPU_CAPABILITY=avx2",
     "unset ATEN_CPU_CAPABILITY"},
    {"WkvPlain", [](MachineFacts& f) { f.cpu.wkv_capability = "DEFAULT"; }, Severity::kWarning,
     "instructions", "the WKV kernels run DEFAULT code", "scripts/build"},
    {"OldProcessor",
     [](MachineFacts& f) {
       f.cpu.instruction_sets = {"sse4_2", "avx"};
       f.cpu.torch_capability = f.cpu.wkv_capability = "DEFAULT";
     },
     Severity::kWarning, "instructions", "no AVX2", "AVX2"},
    {"OneDnnLimited", [](MachineFacts& f) { f.environment["ONEDNN_MAX_CPU_ISA"] = "AVX2"; },
     Severity::kWarning, "instructions", "ONEDNN_MAX_CPU_ISA=AVX2", "unset ONEDNN_MAX_CPU_ISA"},
    {"OneThread",
     [](MachineFacts& f) {
       f.threads = {1, 1};
       f.environment["OMP_NUM_THREADS"] = "1";
     },
     Severity::kWarning, "threads", "1 thread for 16 processors: OMP_NUM_THREADS=1",
     "unset OMP_NUM_THREADS"},
    {"NotANumber", [](MachineFacts& f) { f.environment["OMP_NUM_THREADS"] = "all"; },
     Severity::kWarning, "threads", "OMP_NUM_THREADS=all is no number", "number"},
    {"Dynamic", [](MachineFacts& f) { f.environment["OMP_DYNAMIC"] = "true"; }, Severity::kWarning,
     "threads", "OMP_DYNAMIC", "unset OMP_DYNAMIC"},
    {"Quota", [](MachineFacts& f) { f.cpu.quota = 1.5; }, Severity::kWarning, "threads",
     "8 threads share 2 processors (a cgroup grants the time of 1.50)", "train.threads: 2"},
    {"Affinity", [](MachineFacts& f) { f.cpu.allowed = 2; }, Severity::kWarning, "threads",
     "8 threads share 2 processors (affinity", "OMP_NUM_THREADS=2"},
    {"SilentlySerial", [](MachineFacts& f) { f.threads.seen = 1; }, Severity::kError, "threads",
     "parallel loops run on 1 of 8 threads", "OpenMP"},
    {"ThreadLimit",
     [](MachineFacts& f) {
       f.threads.seen = 4;
       f.environment["OMP_THREAD_LIMIT"] = "4";
     },
     Severity::kError, "threads", "4 of 8", "unset OMP_THREAD_LIMIT"},
    {"SmallMachine", [](MachineFacts& f) { f.memory.total = f.memory.available = 15 * kGB / 10; },
     Severity::kError, "memory", "1.5 GB of memory;", "machine"},
    {"SmallContainer", [](MachineFacts& f) { f.memory.limit = 1 * kGB; }, Severity::kError,
     "memory", "1.0 GB of memory (limit of a cgroup)", "container"},
    {"FullMemory", [](MachineFacts& f) { f.memory.available = kGB / 2; }, Severity::kError,
     "memory", "0.5 GB of memory are available", "end other programs"},
    {"FullContainer",
     [](MachineFacts& f) {
       f.memory.limit = 4 * kGB;
       f.memory.used_of_limit = 5 * kGB / 2;
     },
     Severity::kWarning, "memory", "1.5 GB of memory are available (limit", "end other programs"},
    {"Swap", [](MachineFacts& f) { f.memory.swap_used = 7 * kGB; }, Severity::kWarning, "memory",
     "7.0 GB lie in swap", "swapoff"},
    {"FullDisk", [](MachineFacts& f) { f.disk.free_bytes = kGB / 5; }, Severity::kError, "disk",
     "0.2 GB are free in /home/me", "train.out_dir"},
    {"SmallDisk", [](MachineFacts& f) { f.disk.free_bytes = 2 * kGB; }, Severity::kWarning, "disk",
     "2.0 GB are free", "train.out_dir"},
    {"ReadOnly", [](MachineFacts& f) { f.disk.writable = false; }, Severity::kWarning, "disk",
     "/home/me cannot be written", "train.out_dir"},
    {"FewFiles", [](MachineFacts& f) { f.limits.open_files = 64; }, Severity::kError, "limits",
     "64 open files", "ulimit -n"},
    {"ShortFiles", [](MachineFacts& f) { f.limits.file_size = kGB / 2; }, Severity::kError,
     "limits", "0.50 GB", "ulimit -f"},
    {"NarrowAddresses", [](MachineFacts& f) { f.limits.address_space = 4 * kGB; },
     Severity::kWarning, "limits", "4.0 GB of address space", "ulimit -v"},
    {"Busy", [](MachineFacts& f) { f.cpu.load = 12; }, Severity::kWarning, "speed",
     "12.0 of 16 processors busy", "wait"},
    {"ThreadsDoNotHelp", [](MachineFacts& f) { f.speed->fp32_all = 1.1e11; }, Severity::kWarning,
     "speed", "8 threads multiply only 1.1 times as fast", "train.threads"},
    {"SlowBf16", [](MachineFacts& f) { f.speed->bf16_all = 1e11; }, Severity::kWarning, "speed",
     "bf16 products reach 100 GFLOP/s, fp32 700", "fp32"},
};

TEST(MachineCheck, NothingIsWrongWithAGoodMachine) {
  EXPECT_TRUE(check_machine(good_machine()).empty());
  MachineFacts cuda = good_machine();
  cuda.cuda = {{"80", "90"}, "13.0", "13.1", "", {{"a GPU", 86}, {"another", 90}}, "", ""};
  EXPECT_TRUE(check_machine(cuda).empty());
  MachineFacts unmeasured = good_machine();
  unmeasured.speed.reset();
  EXPECT_TRUE(check_machine(unmeasured).empty());
}

TEST(MachineCheck, EveryFaultIsFoundAloneWithItsMend) {
  for (const Case& c : kCases) {
    MachineFacts facts = good_machine();
    c.change(facts);
    const std::vector<Finding> findings = check_machine(facts);
    ASSERT_EQ(findings.size(), 1U) << c.name;
    EXPECT_EQ(findings[0].severity, c.severity) << c.name;
    EXPECT_EQ(findings[0].topic, c.topic) << c.name;
    EXPECT_NE(findings[0].what.find(c.what), std::string::npos)
        << c.name << ": " << findings[0].what;
    EXPECT_NE(findings[0].mend.find(c.mend), std::string::npos)
        << c.name << ": " << findings[0].mend;
  }
}

TEST(MachineCheck, OneThreadPerCoreIsNotTooFew) {
  MachineFacts facts = good_machine();
  facts.cpu.physical = 4;  // with four processors each
  facts.threads = {4, 4};
  EXPECT_TRUE(check_machine(facts).empty());
}

TEST(MachineCheck, CudaCodeRunsOnTheDevicesThatCudaSays) {
  EXPECT_TRUE(runs_on({"80"}, 80));
  EXPECT_TRUE(runs_on({"80"}, 120));  // from intermediate code
  EXPECT_FALSE(runs_on({"80"}, 75));
  EXPECT_TRUE(runs_on({"80-real"}, 86));
  EXPECT_FALSE(runs_on({"80-real"}, 90));
  EXPECT_TRUE(runs_on({"75-virtual"}, 90));
  EXPECT_TRUE(runs_on({"90a"}, 90));
  EXPECT_FALSE(runs_on({"90a"}, 100));
  EXPECT_TRUE(runs_on({"90a-real", "75"}, 80));
  EXPECT_FALSE(runs_on({}, 80));
}

/// A /proc and /sys of our own.
class MachineFiles : public ::testing::Test {
 protected:
  void SetUp() override {
    root_ = fs::temp_directory_path() / ("rwkv_machine_" + std::to_string(::getpid()));
    fs::remove_all(root_);
    write("proc/cpuinfo",
          "processor\t: 0\nmodel name\t: Some CPU\nflags\t\t: fpu avx avx2 fma avx512f\n\n"
          "processor\t: 1\nmodel name\t: Some CPU\nflags\t\t: fpu avx avx2 fma avx512f\n");
    write("proc/meminfo",
          "MemTotal:       8000000 kB\nMemFree: 100 kB\nMemAvailable:   6000000 kB\n"
          "SwapTotal: 2000 kB\nSwapFree: 500 kB\n");
    write("proc/loadavg", "1.25 0.5 0.1 2/300 12345\n");
  }
  void TearDown() override { fs::remove_all(root_); }
  void write(const std::string& path, const std::string& text) const {
    fs::create_directories((root_ / path).parent_path());
    std::ofstream(root_ / path) << text;
  }

  fs::path root_;
};

TEST_F(MachineFiles, ProcessorAndMemoryWithoutCgroups) {
  for (int i = 0; i < 2; ++i) {
    const std::string topology = "sys/devices/system/cpu/cpu" + std::to_string(i) + "/topology/";
    write(topology + "physical_package_id", "0\n");
    write(topology + "core_id", "5\n");
  }
  CpuFacts cpu = read_cpu(root_);
  EXPECT_EQ(cpu.name, "Some CPU");
  EXPECT_EQ(cpu.logical, 2);
  EXPECT_EQ(cpu.physical, 1);
  EXPECT_EQ(cpu.load, 1.25);
  EXPECT_FALSE(cpu.quota);
  EXPECT_EQ(cpu.instruction_sets, (std::vector<std::string>{"avx", "avx2", "fma", "avx512f"}));
  EXPECT_EQ(cpu.best_capability(), "AVX2");  // AVX-512 needs four of its parts
  cpu.allowed = 2;
  EXPECT_EQ(cpu.usable(), 2);
  const MemoryFacts memory = read_memory(root_);
  EXPECT_EQ(memory.total, 8'192'000'000);
  EXPECT_EQ(memory.usable_available(), 6'144'000'000);
  EXPECT_EQ(memory.swap_used, 1500 * 1024);
  EXPECT_FALSE(memory.limit);
}

TEST_F(MachineFiles, TheTightestOfNestedCgroupsCounts) {
  write("proc/self/cgroup", "0::/user/shell\n");
  const std::string mount = "sys/fs/cgroup/";
  write(mount + "user/cpu.max", "150000 100000\n");
  write(mount + "user/shell/cpu.max", "max 100000\n");
  write(mount + "user/memory.max", "2000000000\n");
  write(mount + "user/memory.current", "1500000000\n");
  write(mount + "user/memory.stat", "anon 700\ninactive_file 500000000\n");
  write(mount + "user/shell/memory.max", "max\n");
  write(mount + "memory.max", "4000000000\n");
  write(mount + "memory.current", "1600000000\n");
  CpuFacts cpu = read_cpu(root_);
  ASSERT_TRUE(cpu.quota);
  EXPECT_EQ(*cpu.quota, 1.5);
  cpu.allowed = 8;
  EXPECT_EQ(cpu.usable(), 2);
  const MemoryFacts memory = read_memory(root_);
  EXPECT_EQ(memory.limit, 2'000'000'000);
  EXPECT_EQ(memory.usable_total(), 2'000'000'000);
  EXPECT_EQ(memory.usable_available(), 1'000'000'000);  // files can be dropped
}

TEST_F(MachineFiles, OldCgroupsOfAContainerWhosePathIsTheHosts) {
  write("proc/self/cgroup", "5:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n0::/\n");
  const std::string mount = "sys/fs/cgroup/";
  write(mount + "cpu,cpuacct/cpu.cfs_quota_us", "50000\n");
  write(mount + "cpu,cpuacct/cpu.cfs_period_us", "100000\n");
  write(mount + "memory/memory.limit_in_bytes", "3000000000\n");
  write(mount + "memory/memory.usage_in_bytes", "1000000000\n");
  CpuFacts cpu = read_cpu(root_);
  EXPECT_EQ(cpu.quota, 0.5);
  cpu.allowed = 8;
  EXPECT_EQ(cpu.usable(), 1);
  EXPECT_EQ(read_memory(root_).usable_available(), 2'000'000'000);
  write(mount + "memory/memory.limit_in_bytes", "9223372036854771712\n");  // none
  EXPECT_FALSE(read_memory(root_).limit);
}

TEST_F(MachineFiles, NothingThereIsNoError) {
  fs::remove_all(root_);
  EXPECT_EQ(read_cpu(root_).logical, 0);
  EXPECT_EQ(read_memory(root_).total, 0);
}

TEST(MachineFacts, OfThisMachineAreFilledIn) {
  const MachineFacts facts = collect_machine_facts();
  EXPECT_NE(facts.build.compiler.find("."), std::string::npos);
  EXPECT_EQ(facts.libtorch.loaded_version, facts.libtorch.compiled_version);
  EXPECT_TRUE(fs::exists(facts.libtorch.path)) << facts.libtorch.path;
  EXPECT_EQ(facts.libtorch.openmp_runtimes.size(), 1U);
  EXPECT_GE(facts.cpu.allowed, 1);
  EXPECT_GE(facts.cpu.logical, facts.cpu.physical);
  EXPECT_EQ(facts.cpu.torch_capability, facts.cpu.wkv_capability);
  EXPECT_EQ(facts.threads.seen, facts.threads.torch_threads);
  EXPECT_GT(facts.memory.usable_available(), 0);
  EXPECT_GT(facts.disk.free_bytes, 0);
}

}  // namespace
}  // namespace rwkv::trainer
