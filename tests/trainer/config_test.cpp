#include "trainer/config.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "data/base/error.h"

namespace rwkv::trainer {
namespace {

namespace fs = std::filesystem;

/// A valid configuration in which some sections are replaced by flow-style text.
std::string with(const std::map<std::string, std::string>& sections) {
  std::map<std::string, std::string> all = {
      {"data", "{path: text.txt}"},
      {"train", "{max_steps: 10}"},
      {"schedule", "{segments: [{until: 10, lr: {constant: 1e-3}}]}"}};
  for (const auto& [name, text] : sections) all[name] = text;
  std::string yaml;
  for (const auto& [name, text] : all) yaml += name + ": " + text + "\n";
  return yaml;
}

RunConfig parse(const std::string& yaml, const std::vector<std::string>& overrides = {}) {
  return parse_run_config(yaml, "run.yaml", overrides);
}

/// The message with which `yaml` is refused; empty when it is accepted.
std::string refusal(const std::string& yaml, const std::vector<std::string>& overrides = {}) {
  try {
    parse(yaml, overrides);
  } catch (const UserError& error) {
    return error.what();
  }
  return "";
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    lines.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return lines;
}

struct Malformed {
  std::string yaml;
  std::string expected;  // a part of the message
};

std::string deep_list(size_t levels) {
  return "a: " + std::string(levels, '[') + std::string(levels, ']');
}

std::string many_values(size_t count) {
  std::string yaml = "a: [";
  for (size_t i = 0; i < count; ++i) yaml += "1,";
  return yaml + "1]";
}

std::vector<Malformed> broken_documents() {
  return {
      {"train: [1, 2", "run.yaml:1: not valid YAML"},
      {"train: {max_steps: 10", "not valid YAML"},
      {"train:\n\tmax_steps: 1\n", "not valid YAML"},
      {"train: \"open\n", "not valid YAML"},
      {"train: 'open\n", "not valid YAML"},
      {"a: b: c", "not valid YAML"},
      {"- 1\n- 2\n", "expected sections"},
      {"just a text", "expected sections"},
      {with({{"train", "{max_steps: &a 10}"}}), "anchors (&name) are not allowed"},
      {with({{"train", "&t {max_steps: 10}"}}), "anchors (&name) are not allowed"},
      {with({{"train", "&t {max_steps: *t}"}}), "anchors (&name) are not allowed"},
      {"train: *t", "not valid YAML: the referenced anchor is not defined"},
      {with({{"train", "{max_steps: !!int 10}"}}), "tags (!name) are not allowed"},
      {with({{"train", "!mine {max_steps: 10}"}}), "tags (!name) are not allowed"},
      {with({{"train", "{<<: {seed: 1}, max_steps: 10}"}}), "merge keys (<<) are not allowed"},
      {with({}) + "---\ntrain: {max_steps: 5}\n", "a second document"},
      {with({}) + "train: {max_steps: 20}\n",
       "run.yaml:4: train: key appears twice, first in line 3"},
      {with({{"train", "{max_steps: 10, max_steps: 20}"}}), "max_steps: key appears twice"},
      {"? [a, b]\n: 1\n", "a key must be a plain word"},
      {"? {a: b}\n: 1\n", "a key must be a plain word"},
      {"train: {: 1}\n", "a key is empty"},
      {"~: 1\n", "a key is empty"},
      {deep_list(64), "more than 64 levels"},
      {deep_list(100000), "more than 64 levels"},
      {many_values(10000), "more than 10000 values"},
      {std::string(1000001, '#'), "1000001 bytes"},
      {"train:\n  out_dir: \xff\n", "run.yaml:2: byte 18 is not valid UTF-8"},
      {"train: \"\xc0\xaf\"", "not valid UTF-8"},
      {"train: \"\xed\xa0\x80\"", "not valid UTF-8"},
      {"train: \"\xf4\x90\x80\x80\"", "not valid UTF-8"},
      {"train: \"\xe2\x82", "not valid UTF-8"},
      {std::string("train: a\0b", 10), "not valid UTF-8"},
      {std::string("\xff\xfe"
                   "a\0",
                   4),
       "not valid UTF-8"},
  };
}

std::vector<Malformed> wrong_values() {
  const auto train = [](const std::string& field) {
    return with({{"train", "{max_steps: 10, " + field + "}"}});
  };
  const auto optimizer = [](const std::string& field) { return with({{"optimizer", field}}); };
  return {
      {train("seed: 010"), "train.seed: 010 has a leading zero"},
      {train("seed: 0x10"), "train.seed: expected a decimal integer, got 0x10"},
      {train("seed: 0o17"), "expected a decimal integer"},
      {train("seed: 1_000"), "expected a decimal integer"},
      {train("seed: 1e3"), "expected a decimal integer, got 1e3"},
      {train("seed: 1.0"), "expected a decimal integer, got 1.0"},
      {train("seed: \"5\""), "got the quoted text \"5\""},
      {train("seed: ~"), "train.seed: expected a decimal integer, got nothing"},
      {train("seed:"), "got nothing"},
      {train("seed: [1]"), "got a list"},
      {train("seed: {a: 1}"), "got a section"},
      {train("seed: 9223372036854775808"), "no integer that fits into 64 bits"},
      {train("seed: -1"), "train.seed: -1 is outside 0.."},
      {train("ctx_len: 0"), "train.ctx_len: 0 is outside 1..1048576"},
      {train("max_tokens: 1.5e0"), "train.max_tokens: 1.5e0 is no integer"},
      {train("max_tokens: 1e99"), "train.max_tokens: 1e99 is no integer"},
      {train("max_tokens: 1e16"), "train.max_tokens: 10000000000000000 is outside"},
      {train("l2wrap: .nan"), "train.l2wrap: expected a finite decimal number, got .nan"},
      {train("l2wrap: .inf"), "expected a finite decimal number"},
      {train("l2wrap: inf"), "expected a finite decimal number"},
      {train("l2wrap: 1e999"), "outside what a double holds"},
      {train("l2wrap: 00.5"), "leading zero"},
      {train("l2wrap: 2"), "train.l2wrap: 2 is outside 0..1"},
      {train("stage: 5"), "train.stage: 5 is outside -1..4"},
      {train("device: tpu"), "train.device: \"tpu\" is none of cpu, cuda"},
      {train("precision: fp8"), "train.precision: \"fp8\" is none of fp32, tf32, bf16, fp16"},
      {train("dropout: 1"), "train.dropout: 1 is outside 0..0.99"},
      {train("out_dir: \"\""), "train.out_dir: empty"},
      {train("out_dir: \"a\\nb\""), "a path with control characters"},
      {train("micro_bz: 3"), "run.yaml:3: train.micro_bz: unknown key; did you mean micro_bsz?"},
      {train("\"mi\\ncro\": 3"), "train.mi\\ncro: unknown key"},
      {with({{"model", "{pre_ffn: yes}"}}), "model.pre_ffn: expected true or false, got yes"},
      {with({{"model", "{pre_ffn: True}"}}), "expected true or false, got True"},
      {with({{"model", "{emb_init: lr_final}"}}), "or write lr_init"},
      {with({{"model", "{arch: rwkv3}"}}), "\"rwkv3\" is none of rwkv4; did you mean rwkv4?"},
      {with({{"model", "~"}}), "model: the section is empty"},
      {with({{"model", "7"}}), "model: expected a section"},
      {with({{"modle", "{n_layer: 2}"}}), "modle: unknown key; did you mean model?"},
      {with({{"sample", "{prompt: \"a\\0b\"}"}}), "sample.prompt: the text holds a NUL"},
      {optimizer("{betas: [0.9]}"), "optimizer.betas: expected a list of two numbers"},
      {optimizer("{betas: [0.9, 1.0]}"), "1 is no beta"},
      {optimizer("{betas: [a, 0.9]}"), "optimizer.betas: expected a finite decimal number, got a"},
      {optimizer("{eps: 0}"), "optimizer.eps: 0 is outside"},
      {with({{"data", "{path: x, kind: byte}"}}), "did you mean bytes?"},
      {with({{"data", "{path: [x]}"}}), "data.path: expected a text, got a list"},
  };
}

std::vector<Malformed> wrong_schedules() {
  const auto segments = [](const std::string& list) {
    return with({{"schedule", "{segments: " + list + "}"}});
  };
  const std::string name = "schedule.segments[0]";
  return {
      {segments("[]"), "schedule.segments: missing"},
      {segments("{until: 1}"), "schedule.segments: expected a list"},
      {segments("[3]"), name + ": expected a section"},
      {segments("[{lr: {constant: 1e-3}}]"), name + ": missing 'until'"},
      {segments("[{until: 5}]"), name + ".lr: missing"},
      {segments("[{until: 0, lr: {constant: 1}}]"), name + ".until: 0 is outside"},
      {segments("[{until: 5, lr: 1e-3}]"), name + ".lr: expected one of {constant: a}"},
      {segments("[{until: 5, lr: {wsd: [1, 2]}}]"), name + ".lr.wsd: no such curve"},
      {segments("[{until: 5, lr: {exp: 1e-3}}]"), name + ".lr.exp: expected a list of two"},
      {segments("[{until: 5, lr: {exp: [0.1, 0]}}]"), name + ".lr.exp: never reaches 0"},
      {segments("[{until: 5, lr: {cosine: [0, 0.1]}}]"), name + ".lr.cosine: must start above 0"},
      {segments("[{until: 5, lr: {linear: [0, 7]}}]"), name + ".lr.linear: 7 is outside 0..1"},
      {segments("[{until: 5, lr: {hyperbola: 1}}]"), name + ".lr.hyperbola: expected a section"},
      {segments("[{until: 5, lr: {hyperbola: {lr: 1, rat: 2}}}]"), "did you mean rate?"},
      {segments("[{until: 5, lr: {constant: 1}, beta: [0, 0]}]"), "did you mean betas?"},
      {segments("[{until: 5, lr: {constant: 1}, real_bsz: 30}]"),
       name + ".real_bsz: 30 is no multiple of train.micro_bsz = 12"},
      {segments("[{until: 5, lr: {constant: 1}}, {until: 5, lr: {constant: 1}}]"),
       "schedule.segments[1].until: 5 is not beyond 5"},
      {with({{"schedule", "{lr_init: 1e-3, segments: [{until: 1, lr: {constant: 1}}]}"}}),
       "schedule.lr_init: schedule.kind segments does not use it"},
      {with({{"schedule", "{kind: rwkv4neo, after: 1e-5, lr_init: 1e-3}"}}),
       "schedule.after: schedule.kind rwkv4neo does not use it"},
      {with({{"schedule", "{kind: rwkv7, lr_init: 1e-3, lr_final: 1e-5}"}}),
       "schedule.my_exit_tokens: RWKV-7's trainer has only the cosine"},
      {with({{"schedule", "{kind: rwkv7, lr_init: 1e-3, my_exit_tokens: -5}"}}),
       "schedule.my_exit_tokens: RWKV-7's trainer has only the cosine"},
      {with({{"schedule", "{kind: rwkv4_tokens, lr_init: 1e-3, lr_final: 1e-5}"}}),
       "schedule.final_tokens: missing"},
      {with({{"schedule", "{kind: rwkv4_tokens, lr_init: 1e-3, final_tokens: 5}"}}),
       "schedule.lr_final: an exponential decay never reaches 0"},
      {with({{"schedule", "{kind: rwkv2_tokens, lr_final: 1e-3, final_tokens: 5}"}}),
       "schedule.lr_init: this schedule is relative to lr_init"},
      {with({{"schedule", "{kind: rwkv4neo}"}}), "schedule.lr_init: missing"},
      {with({{"schedule", "{kind: wsd}"}}), "schedule.kind: \"wsd\" is none of segments"},
  };
}

std::vector<Malformed> contradictions() {
  const auto data = [](const std::string& fields) {
    return with({{"data", "{path: x, " + fields + "}"}});
  };
  const auto validation = [](const std::string& fields) {
    return with({{"validation", "{" + fields + "}"}});
  };
  return {
      {with({{"data", "{}"}}), "run.yaml: data.path: missing"},
      {with({{"train", "{seed: 1}"}}), "set train.max_steps or train.max_tokens"},
      {with({{"train", "{max_steps: 1, stage: 3}"}, {"data", "{path: x}"}}),
       "set data.sampler: cubic"},
      {with({{"train", "{max_steps: 1, stage: 3, micro_bsz: 11}"},
             {"data", "{path: x, sampler: cubic}"}}),
       "micro_bsz * grad_accum = 11 must divide 40320"},
      {with({{"train", "{max_steps: 1, stage: 4}"}, {"data", "{path: x, sampler: cubic}"}}),
       "set data.sampler: random"},
      {data("kind: raw"), "data.dtype: missing"},
      {data("dtype: u16"), "data.dtype: only kind raw reads it"},
      {data("kind: binidx, vocab_file: v"), "data.vocab_file: only characters"},
      {data("kind: binidx, train_bytes: 5"), "data.train_bytes: only text"},
      {data("train_tokens: 4, train_bytes: 5"), "not both"},
      {data("sampler: cubic, shift: 1024"), "data.shift: 1024 must be below train.ctx_len"},
      {data("magic_prime: 5"), "data.magic_prime: only the cubic sampler"},
      {data("factor: 1"), "data.factor: only the cubic sampler"},
      {data("step_bias: 1"), "data.step_bias: only the cubic sampler"},
      {data("random_steps: 1"), "data.random_steps: only the cubic sampler"},
      {data("qa_mask: 1, general_path: g"), "data.qa_mask: only the cubic sampler"},
      {data("sampler: cubic, qa_mask: 1"), "data.general_path: missing"},
      {data("general_path: g"), "data.general_path: only qa_mask 1 and 2 read it"},
      {data("sampler: cubic, qa_mask: 1, general_path: g, loss_mask: m"),
       "data.loss_mask: qa_mask makes a mask of its own"},
      {with({{"train", "{max_steps: 10, precision: tf32}"}}),
       "train.precision: tf32 is a mode of CUDA devices"},
      {with({{"train", "{max_steps: 10, loss_scale: 8}"}}),
       "train.loss_scale: only precision fp16 uses it"},
      {with({{"model", "{head_qk_reduce: max}"}}), "model.head_qk_reduce: there is no Head-QK"},
      {validation("every: 5"), "validation.every: there is no text to validate on"},
      {validation("path: y, tail: 0.1"), "named twice"},
      {validation("tokens: 5"), "validation.tokens: follows data.train_tokens"},
      {validation("bytes: 5"), "validation.bytes: follows data.train_bytes"},
      {with({{"data", "{path: x, train_tokens: 5}"}, {"validation", "{tail: 0.1}"}}),
       "validation.tail: the training part is already set"},
      {with({{"optimizer", "{weight_decay_final: 0.1}"}}),
       "optimizer.weight_decay_final: there is no weight decay to change"},
  };
}

class MalformedYaml : public ::testing::TestWithParam<Malformed> {};

// S04. Each case stands alone in an otherwise valid file, so its message is one line that begins
// with the file.
TEST_P(MalformedYaml, IsRefusedInOneLineThatSaysWhy) {
  const std::string message = refusal(GetParam().yaml);
  EXPECT_NE(message.find(GetParam().expected), std::string::npos) << message;
  EXPECT_EQ(message.rfind("run.yaml:", 0), 0U) << message;
  EXPECT_EQ(message.find('\n'), std::string::npos) << message;
}

INSTANTIATE_TEST_SUITE_P(Documents, MalformedYaml, ::testing::ValuesIn(broken_documents()));
INSTANTIATE_TEST_SUITE_P(Values, MalformedYaml, ::testing::ValuesIn(wrong_values()));
INSTANTIATE_TEST_SUITE_P(Schedules, MalformedYaml, ::testing::ValuesIn(wrong_schedules()));
INSTANTIATE_TEST_SUITE_P(Contradictions, MalformedYaml, ::testing::ValuesIn(contradictions()));

TEST(RunConfigYaml, ReadsEveryKindOfValue) {
  const RunConfig config = parse(R"(%YAML 1.2
---
model: {n_layer: 2, emb_init: lr_init, pre_ffn: true}   # a comment
data: {path: "a # b", kind: raw, dtype: u16, sampler: cubic, factor: 1, step_bias: 7}
train:
  max_tokens: 1.5e9
  epoch_steps: 2E3
  out_dir: runs/ünï
  l2wrap: 0
optimizer: {betas: [0, .5], eps: 1e-18}
schedule:
  unit: steps
  warmup: {steps: 10, floor: 0.2, after_resume: 5}
  segments:
    - {until: 15e9, lr: {constant: 3e-4}, betas: [0.9, 0.99]}
    - until: 16e9
      lr: {hyperbola: {lr: 3e-4, rate: 1e-3}}
      real_bsz: 24
  after: 1e-5
sample: {prompt: "\u00e4\n"}
)");
  EXPECT_TRUE(config.model.emb_init_is_lr);
  EXPECT_TRUE(config.model.pre_ffn);
  EXPECT_EQ(config.data.path, "a # b");
  EXPECT_EQ(config.data.kind, DataKind::kRaw);
  EXPECT_EQ(config.data.factor, SamplerFactor::kOne);
  EXPECT_EQ(config.train.max_tokens, 1'500'000'000);
  EXPECT_EQ(config.train.epoch_steps, 2000);
  EXPECT_EQ(config.train.out_dir, "runs/ünï");
  EXPECT_EQ(config.optimizer.betas[1], 0.5);
  EXPECT_EQ(config.optimizer.eps, 1e-18);
  ASSERT_EQ(config.schedule.segments.size(), 2U);
  EXPECT_EQ(config.schedule.segments[0].until, 15'000'000'000);
  EXPECT_EQ(config.schedule.segments[0].betas->at(1), 0.99);
  EXPECT_FALSE(config.schedule.segments[0].real_bsz);
  EXPECT_EQ(config.schedule.segments[1].lr.rate, 1e-3);
  EXPECT_EQ(config.schedule.segments[1].real_bsz, 24);
  EXPECT_EQ(config.schedule.after, 1e-5);
  EXPECT_EQ(config.sample.prompt, "ä\n");
  EXPECT_EQ(config.train.ctx_len, 1024);  // a default
}

TEST(RunConfigYaml, ListsAllErrorsAtOnceInTheOrderOfTheFile) {
  const std::string message = refusal(
      "data:\n"
      "  kind: bytse\n"
      "train:\n"
      "  micro_bz: 3\n"
      "  max_steps: 10\n"
      "  ctx_len: 1k\n"
      "schedule:\n"
      "  segments: [{until: 10, lr: {constant: 1e-3}}]\n",
      {"model.n_layer=0", "train.sede=1"});
  EXPECT_EQ(
      lines_of(message),
      (std::vector<std::string>{
          "run.yaml: 6 errors",
          "run.yaml:2: data.kind: \"bytse\" is none of auto, bytes, characters, utf16le, binidx, "
          "npy, raw, text, jsonl; did you mean bytes?",
          "run.yaml:4: train.micro_bz: unknown key; did you mean micro_bsz?",
          "run.yaml:6: train.ctx_len: expected a decimal integer, got 1k",
          "run.yaml: data.path: missing; name the file to train on",
          "--set: model.n_layer: 0 is outside 1..1000",
          "--set: train.sede: unknown key; did you mean seed?"}));
}

TEST(RunConfigYaml, AMisspelledKeyIsNotReportedAsMissingToo) {
  EXPECT_EQ(refusal(with({{"train", "{max_step: 10}"}})),
            "run.yaml:3: train.max_step: unknown key; did you mean max_steps?");
  EXPECT_EQ(refusal(with({{"train", "{max_steps: ten}"}})),
            "run.yaml:3: train.max_steps: expected an integer (15e9 will do), got ten");
}

TEST(RunConfigYaml, KeyOfAnotherSectionIsSuggestedWithItsPath) {
  EXPECT_EQ(refusal(with({{"train", "{max_steps: 10, grad_clip: 1}"}})),
            "run.yaml:3: train.grad_clip: unknown key; did you mean optimizer.grad_clip?");
  EXPECT_NE(refusal(with({}) + "n_layer: 3\n").find("did you mean model.n_layer?"),
            std::string::npos);
}

TEST(RunConfigYaml, FarFetchedSuggestionsAreLeftOut) {
  EXPECT_EQ(refusal(with({{"train", "{max_steps: 10, zzzzzzzz: 1}"}})),
            "run.yaml:3: train.zzzzzzzz: unknown key");
}

TEST(RunConfigYaml, ManyErrorsAreCutShort) {
  std::string yaml = with({});
  for (int i = 0; i < 4000; ++i) yaml += "k" + std::to_string(i) + ": 1\n";
  const std::vector<std::string> lines = lines_of(refusal(yaml));
  EXPECT_EQ(lines.front(), "run.yaml: 4000 errors");
  EXPECT_EQ(lines.size(), 52U);
  EXPECT_EQ(lines.back(), "... and 3950 more");
}

TEST(RunConfigYaml, LimitsAdmitWhatTheyName) {
  EXPECT_EQ(refusal(deep_list(63)).find("levels"), std::string::npos);
  EXPECT_EQ(refusal(many_values(9000)).find("values;"), std::string::npos);
  EXPECT_EQ(refusal(with({}) + std::string(999'000, '#')), "");
}

TEST(RunConfigYaml, HostileNestingEndsQuickly) {
  for (const std::string unit :
       {"[", "{", "- ", "? ", "a: ", "{a:", "!", "&a ", "---\n", "%TAG ! b\n"}) {
    std::string yaml;
    while (yaml.size() + unit.size() < 200'000) yaml += unit;
    EXPECT_NE(refusal(yaml), "") << unit;
  }
}

TEST(Overrides, ReplaceWhatTheFileSays) {
  const RunConfig config = parse(
      with({}), {"train.max_steps=20", "schedule.warmup.steps=3",
                 "data.vocab_file=", "schedule.segments=[{until: 5e3, lr: {linear: [1e-3, 0]}}]",
                 "optimizer.betas=[0.8, 0.9]", "sample.prompt=\"a = b\\n\"",
                 "model.emb_init=lr_init", "train.out_dir=runs/a=b"});
  EXPECT_EQ(config.train.max_steps, 20);
  EXPECT_EQ(config.schedule.warmup.steps, 3);
  EXPECT_EQ(config.schedule.segments.at(0).until, 5000);
  EXPECT_EQ(config.optimizer.betas[0], 0.8);
  EXPECT_EQ(config.sample.prompt, "a = b\n");
  EXPECT_TRUE(config.model.emb_init_is_lr);
  EXPECT_EQ(config.train.out_dir, "runs/a=b");
}

TEST(Overrides, MendAMistakeInTheFile) {
  const std::string yaml = with({{"train", "{max_steps: many}"}});
  EXPECT_NE(refusal(yaml), "");
  EXPECT_EQ(parse(yaml, {"train.max_steps=7"}).train.max_steps, 7);
}

// W02, and the same rules as in a file.
TEST(Overrides, BadOnesAreRefused) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"train.max_step=1", "--set: train.max_step: unknown key; did you mean max_steps?"},
      {"trian.max_steps=1", "--set: trian: unknown key; did you mean train?"},
      {"train.max_steps=ten", "--set: train.max_steps: expected an integer"},
      {"train.max_steps=", "--set: train.max_steps: expected an integer"},
      {"train.max_steps", "'train.max_steps' is not of the form section.key=value"},
      {"=1", "is not of the form"},
      {"", "is not of the form"},
      {".train=1", "is not of the form"},
      {"train..seed=1", "is not of the form"},
      {"a.b.c.d.e.f.g.h.i=1", "is not of the form"},
      {"train.max_steps.x=1", "train.max_steps is no section"},
      {"train=5", "--set: train: expected a section"},
      {"train.seed=&a 1", "anchors (&name) are not allowed"},
      {"train.seed=1\n---\n2", "a second document"},
      {"train.seed=[1", "is a bracket left open?"},
      {"train.out_dir=\"x", "--set: not valid YAML"},
      {"model={n_layer: 1, n_layer: 2}", "key appears twice"},
      {"train.seed=\xff", "not valid UTF-8"},
      {"train.\nseed=1", "train.\\nseed: unknown key"},
  };
  for (const auto& [text, expected] : cases) {
    const std::string message = refusal(with({}), {text});
    EXPECT_NE(message.find(expected), std::string::npos) << text << " -> " << message;
    EXPECT_EQ(message.rfind("--set: ", 0), 0U) << message;
    EXPECT_EQ(message.find('\n'), std::string::npos) << message;
  }
  EXPECT_EQ(refusal(with({}), {"train.seed=1", "train.seed=2"}),
            "--set: train.seed: given twice; keep one");
}

TEST(LoadRunConfig, FilesThatAreNone) {
  EXPECT_THROW(load_run_config("/nowhere/run.yaml"), UserError);
  EXPECT_THROW(load_run_config(fs::temp_directory_path()), UserError);
  EXPECT_THROW(load_run_config("/dev/zero"), UserError);
}

TEST(LoadRunConfig, AnEmptyFileNamesWhatIsMissing) {
  const fs::path file =
      fs::temp_directory_path() / ("rwkv_config_" + std::to_string(::getpid()) + ".yaml");
  std::ofstream(file).close();
  std::string message;
  try {
    load_run_config(file);
  } catch (const UserError& error) {
    message = error.what();
  }
  fs::remove(file);
  for (const char* key : {"data.path", "train.max_steps", "schedule.segments"}) {
    EXPECT_NE(message.find(std::string(key) + ": "), std::string::npos) << message;
  }
}

std::vector<fs::path> shipped_configs() {
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(RWKV_CONFIGS_DIR)) files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  return files;
}

class ShippedConfig : public ::testing::TestWithParam<fs::path> {};

TEST_P(ShippedConfig, LoadsAndItsDumpReadsBackEqual) {
  const RunConfig config = load_run_config(GetParam());
  const RunConfig again = parse_run_config(dump_yaml(config), "dump");
  EXPECT_EQ(config, again);
  EXPECT_TRUE(differences(config, again).empty());
}

TEST_P(ShippedConfig, SaysWhatItIs) {
  std::ifstream in(GetParam());
  std::string line;
  int comments = 0;
  bool names_numbers = false;
  while (std::getline(in, line) && line.rfind("# ", 0) == 0) {
    ++comments;
    names_numbers |= line.rfind("# Numbers: ", 0) == 0;
    EXPECT_LE(line.size(), 100U) << line;
  }
  EXPECT_GE(comments, 2);
  EXPECT_LE(comments, 5);
  EXPECT_TRUE(names_numbers);
}

INSTANTIATE_TEST_SUITE_P(Configs, ShippedConfig, ::testing::ValuesIn(shipped_configs()),
                         [](const auto& test) {
                           std::string name = test.param.stem().string();
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

TEST(DumpYaml, KeepsEveryBitAndEveryCharacter) {
  RunConfig config = parse(with({}));
  config.sample.prompt = "\"quoted\" \\ : # \t\r\n\x01\x7f 'x' ä \u2028 \U0001F600 ~ null";
  config.data.path = " leading, {flow} [list] & *star !tag %x @y `z ";
  config.train.out_dir = "null";
  config.optimizer.eps = 1.0 / 3.0 * 1e-17;
  config.optimizer.weight_decay = 0.1;
  config.optimizer.weight_decay_final = 0.1 + 0.2;
  config.train.max_tokens = kMaxCount;
  config.train.seed = INT64_MAX;
  config.train.init_from = "runs/a b";
  config.train.init_partial = true;
  config.optimizer.freeze = {"*.att.*", "emb.?eight", "\"x\", y]"};
  config.model.emb_init_is_lr = true;
  config.model.emb_init = 1e-4;
  config.schedule.after = 1e-5;
  Segment segment;
  segment.until = 1'000'000;
  segment.lr = {.kind = CurveKind::kHyperbola, .start = 1e-3, .rate = 1.0 / 7.0};
  segment.betas = {0.9, 0.999};
  segment.real_bsz = 36;
  config.schedule.segments.push_back(segment);
  EXPECT_EQ(parse(dump_yaml(config)), config);
}

TEST(Differences, NameKeyAndBothValues) {
  const RunConfig a = parse(with({}));
  RunConfig b = a;
  b.train.max_steps = 20;
  b.schedule.warmup.floor = 0.25;
  b.schedule.after = 1e-5;
  const std::vector<Difference> found = differences(a, b);
  ASSERT_EQ(found.size(), 3U);
  EXPECT_EQ(found[0].key, "train.max_steps");
  EXPECT_EQ(found[0].old_value, "10");
  EXPECT_EQ(found[0].new_value, "20");
  EXPECT_EQ(found[1].key, "schedule.warmup.floor");
  EXPECT_EQ(found[2].old_value, "null");
  EXPECT_EQ(found[2].new_value, "1e-05");
}

TEST(DescribeKeys, EveryKeyOfTheDumpHasALine) {
  const std::string help = describe_keys();
  const std::string table = keys_as_markdown();
  const RunConfig a;
  RunConfig b;
  b.model.n_layer = 7;
  ASSERT_EQ(differences(a, b).size(), 1U);
  for (const char* key :
       {"model.n_layer ", "schedule.warmup.after_resume ", "checkpoint.pth_every "}) {
    EXPECT_NE(help.find(std::string("\n") + key), std::string::npos) << key;
  }
  EXPECT_NE(table.find("| `train.ctx_len` | `1024` | 1..1048576 | tokens per window T |"),
            std::string::npos);
  EXPECT_EQ(lines_of(help).size() + 2, lines_of(table).size());
  for (const std::string& line : lines_of(help)) EXPECT_LE(line.size(), 180U) << line;
}

TEST(ModelConfig, ZeroWidthsFollowTheEmbedding) {
  model::ModelConfig config;
  EXPECT_EQ(config.att_size(), 512);
  EXPECT_EQ(config.ffn_size(), 2048);
  config.dim_att = 64;
  config.dim_ffn = 100;
  EXPECT_EQ(config.att_size(), 64);
  EXPECT_EQ(config.ffn_size(), 100);
}

}  // namespace
}  // namespace rwkv::trainer
