#include "model/formats/convert.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <functional>
#include <iostream>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "data/base/error.h"
#include "model/formats/bytes.h"
#include "model/formats/layout.h"
#include "model/formats/pth_writer.h"
#include "model/formats/rwkv_cpp.h"
#include "model/formats/safetensors.h"
#include "tests/model/formats_support.h"

namespace rwkv::formats::testing {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

/// fp32 tensors of a small RWKV-4, V 5, C 4, A 4, F 6, in the order of released files.
struct SmallModel {
  std::vector<TensorSpec> specs;
  std::vector<std::vector<float>> values;

  explicit SmallModel(int64_t layers = 2) {
    add("emb.weight", {5, 4});
    for (int64_t i = 0; i < layers; ++i) {
      const std::string block = "blocks." + std::to_string(i) + ".";
      for (const char* norm : {"ln0", "ln1", "ln2"}) {
        if (i > 0 && std::string(norm) == "ln0") continue;
        add(block + norm + ".weight", {4});
        add(block + norm + ".bias", {4});
      }
      add(block + "att.time_decay", {4});
      add(block + "att.time_first", {4});
      for (const char* mix : {"k", "v", "r"}) add(block + "att.time_mix_" + mix, {1, 1, 4});
      for (const char* matrix : {"key", "value", "receptance", "output"}) {
        add(block + "att." + matrix + ".weight", {4, 4});
      }
      for (const char* mix : {"k", "r"}) add(block + "ffn.time_mix_" + mix, {1, 1, 4});
      add(block + "ffn.key.weight", {6, 4});
      add(block + "ffn.receptance.weight", {4, 4});
      add(block + "ffn.value.weight", {4, 6});
    }
    add("ln_out.weight", {4});
    add("ln_out.bias", {4});
    add("head.weight", {5, 4});
  }

  void add(const std::string& name, std::vector<int64_t> shape) {
    specs.push_back({.name = name, .dtype = DType::f32, .shape = std::move(shape)});
    std::vector<float> numbers(static_cast<size_t>(*byte_size(DType::f32, specs.back().shape)) /
                               sizeof(float));
    for (float& x : numbers) x = static_cast<float>(std::sin(static_cast<double>(++next_))) * 2;
    values.push_back(std::move(numbers));
  }
  void drop(const std::string& name) {
    for (size_t i = 0; i < specs.size(); ++i) {
      if (specs[i].name != name) continue;
      specs.erase(specs.begin() + static_cast<std::ptrdiff_t>(i));
      values.erase(values.begin() + static_cast<std::ptrdiff_t>(i));
      return;
    }
  }
  [[nodiscard]] TensorBytes bytes() const {
    return [this](size_t i) { return std::as_bytes(std::span(values.at(i))); };
  }

 private:
  int next_ = 0;
};

std::string message_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const UserError& error) {
    return error.what();
  }
  return "";
}

void expect_message(const std::string& part, const std::function<void()>& action) {
  const std::string message = message_of(action);
  EXPECT_NE(message.find(part), std::string::npos) << "wanted: " << part << "\ngot: " << message;
  EXPECT_EQ(message.find('\n'), std::string::npos) << message;
}

class Convert : public ::testing::Test {
 protected:
  fs::path path(const std::string& name) const { return folder_.file(name); }
  fs::path write(const SmallModel& model, const std::string& name = "in.pth") const {
    write_pth(path(name), model.specs, model.bytes());
    return path(name);
  }
  ConvertReport run(const std::string& out, ConvertOptions options,
                    const std::string& in = "in.pth") const {
    return convert(open_tensor_file(path(in)), path(out), options);
  }
  /// Every tensor of `file` has the model's shape, and its values up to `bound` of them.
  static void expect_equal(const TensorFile& file, const SmallModel& model, double bound = 0) {
    ASSERT_EQ(file.tensors().size(), model.specs.size());
    for (size_t i = 0; i < model.specs.size(); ++i) {
      SCOPED_TRACE(model.specs[i].name);
      const TensorInfo* tensor = file.find(model.specs[i].name);
      ASSERT_NE(tensor, nullptr);
      EXPECT_EQ(tensor->shape, model.specs[i].shape);
      std::vector<float> found(model.values[i].size());
      file.read(*tensor, DType::f32, std::as_writable_bytes(std::span(found)));
      for (size_t k = 0; k < found.size(); ++k) {
        EXPECT_NEAR(found[k], model.values[i][k], bound * std::fabs(model.values[i][k]) + 1e-12);
      }
    }
  }
  json read_json(const std::string& name) const { return json::parse(read_bytes(path(name))); }

  ScratchFolder folder_;
};

ConvertOptions to(Target target) {
  ConvertOptions options;
  options.target = target;
  return options;
}

ConvertOptions to(Target target, DType dtype) {
  ConvertOptions options = to(target);
  options.dtype = dtype;
  return options;
}

TEST_F(Convert, EveryFormatBringsTheWeightsBack) {
  const SmallModel model;
  write(model);
  const std::map<Target, std::string> kinds = {{Target::kPth, "pth"},
                                               {Target::kSafetensors, "safetensors"},
                                               {Target::kHuggingFace, "safetensors in a folder"},
                                               {Target::kRwkvCpp, "rwkv.cpp"}};
  for (const auto& [target, kind] : kinds) {
    SCOPED_TRACE(kind);
    const ConvertReport report = run("out " + kind, to(target));
    EXPECT_EQ(report.tensors, std::ssize(model.specs));
    const TensorFile file = open_tensor_file(path("out " + kind));
    EXPECT_EQ(file.kind(), kind);
    if (target != Target::kRwkvCpp) expect_equal(file, model);
    // rwkv.cpp keeps vectors flat and decays as -exp: a second step gives the first shapes back.
    convert(file, path("back " + kind), to(Target::kPth));
    expect_equal(open_tensor_file(path("back " + kind)), model,
                 target == Target::kRwkvCpp ? 1e-6 : 0);
  }
}

TEST_F(Convert, TypesAreRounded) {
  const SmallModel model;
  write(model);
  run("half.pth", to(Target::kPth, DType::f16));
  run("brain.st", to(Target::kSafetensors, DType::bf16));
  const TensorFile half = open_tensor_file(path("half.pth"));
  const TensorFile brain = open_tensor_file(path("brain.st"));
  for (const TensorInfo& tensor : half.tensors()) EXPECT_EQ(tensor.dtype, DType::f16);
  for (const TensorInfo& tensor : brain.tensors()) EXPECT_EQ(tensor.dtype, DType::bf16);
  expect_equal(half, model, 0x1p-11);
  expect_equal(brain, model, 0x1p-8);
}

TEST_F(Convert, NumbersBeyondFp16AreRefusedByName) {
  SmallModel model;
  model.values[3][1] = 70000;
  write(model);
  expect_message("1 numbers of " + model.specs[3].name + " do not fit f16; use fp32 or bf16",
                 [&] { run("half.pth", to(Target::kPth, DType::f16)); });
  EXPECT_FALSE(fs::exists(path("half.pth")));
  EXPECT_NO_THROW(run("brain.pth", to(Target::kPth, DType::bf16)));
}

TEST_F(Convert, RwkvCppFilesAreThoseOfItsConverter) {
  const SmallModel model;
  write(model);
  run("out.bin", to(Target::kRwkvCpp, DType::f16));
  const std::string bytes = read_bytes(path("out.bin"));
  EXPECT_EQ(bytes.substr(0, 24), "fmgg" + le32(101) + le32(5) + le32(4) + le32(2) + le32(1));
  // emb.weight: a matrix in fp16, sizes fastest first.
  EXPECT_EQ(bytes.substr(24, 30), le32(2) + le32(10) + le32(1) + le32(4) + le32(5) + "emb.weight");
  // time_mix: squeezed, fp32.
  const size_t at = bytes.find("blocks.0.att.time_mix_k");
  ASSERT_NE(at, std::string::npos);
  EXPECT_EQ(bytes.substr(at - 16, 16), le32(1) + le32(23) + le32(0) + le32(4));
  const size_t decay = bytes.find("blocks.0.att.time_decay") + 23;
  float first = 0;
  std::memcpy(&first, bytes.data() + decay, sizeof(first));
  const auto raw = static_cast<double>(model.values[7][0]);
  ASSERT_EQ(model.specs[7].name, "blocks.0.att.time_decay");
  EXPECT_FLOAT_EQ(first, static_cast<float>(-std::exp(raw)));
}

/// Units in the last place between two numbers of one sign.
int64_t ulps(float a, float b) {
  return std::abs(int64_t{std::bit_cast<int32_t>(a)} - int64_t{std::bit_cast<int32_t>(b)});
}

/// A file of rwkv.cpp's own converter comes back up to the version word and rounding of time_decay.
void expect_comes_back(const fs::path& original, const fs::path& copy) {
  convert(open_tensor_file(original), copy, to(Target::kRwkvCpp));
  const std::string a = read_bytes(original);
  const std::string b = read_bytes(copy);
  ASSERT_EQ(a.size(), b.size());
  EXPECT_EQ(a.substr(0, 4) + a.substr(8, 16), b.substr(0, 4) + b.substr(8, 16));
  const TensorFile file = open_tensor_file(original);
  std::vector<bool> is_decay(a.size());
  for (size_t at = a.find(".time_decay"); at != std::string::npos;
       at = a.find(".time_decay", at + 1)) {
    const int64_t width = file.find("blocks.0.att.time_decay")->numel();
    for (int64_t i = 0; i < width * 4; ++i) is_decay[at + 11 + static_cast<size_t>(i)] = true;
  }
  int64_t worst = 0;
  for (size_t i = 24; i < a.size(); ++i) {
    if (!is_decay[i]) {
      ASSERT_EQ(a[i], b[i]) << "byte " << i;
      continue;
    }
    float x = 0;
    float y = 0;
    std::memcpy(&x, a.data() + i, sizeof(x));
    std::memcpy(&y, b.data() + i, sizeof(y));
    worst = std::max(worst, ulps(x, y));
    i += 3;
  }
  EXPECT_LE(worst, 8);
  std::cout << original.filename() << ": time_decay differs by " << worst << " ulp at most\n";
}

TEST_F(Convert, FilesOfRwkvCppsConverterComeBack) {
  // RWKV_CPP_FILES: a folder with tiny-rwkv-4v0-660K-FP32.bin and -FP16.bin of that project's
  // tests.
  const char* files = std::getenv("RWKV_CPP_FILES");
  if (files == nullptr) GTEST_SKIP() << "RWKV_CPP_FILES names no folder";
  expect_comes_back(fs::path(files) / "tiny-rwkv-4v0-660K-FP32.bin", path("32.bin"));
  expect_comes_back(fs::path(files) / "tiny-rwkv-4v0-660K-FP16.bin", path("16.bin"));
}

TEST_F(Convert, RwkvCppFilesOfOursComeBack) {
  write(SmallModel());
  for (const DType dtype : {DType::f32, DType::f16}) {
    run("first.bin", to(Target::kRwkvCpp, dtype));
    expect_comes_back(path("first.bin"), path("second.bin"));
    fs::remove(path("first.bin"));
    fs::remove(path("second.bin"));
  }
}

TEST_F(Convert, HuggingFaceFoldersHoldWhatTransformersWants) {
  write(SmallModel());
  ConvertOptions options = to(Target::kHuggingFace, DType::bf16);
  options.hugging_face.ctx_len = 512;
  run("hf", options);
  const json config = read_json("hf/config.json");
  EXPECT_EQ(config["model_type"], "rwkv");
  EXPECT_EQ(config["architectures"], json::array({"RwkvForCausalLM"}));
  EXPECT_EQ(config["vocab_size"], 5);
  EXPECT_EQ(config["hidden_size"], 4);
  EXPECT_EQ(config["attention_hidden_size"], 4);
  EXPECT_EQ(config["intermediate_size"], 6);
  EXPECT_EQ(config["num_hidden_layers"], 2);
  EXPECT_EQ(config["context_length"], 512);
  EXPECT_EQ(config["dtype"], "bfloat16");
  EXPECT_EQ(config["rescale_every"], 0);
  EXPECT_EQ(read_json("hf/generation_config.json")["eos_token_id"], 0);
  const std::string weights = read_bytes(path("hf/model.safetensors"));
  const auto names = read_safetensors(as_bytes(weights), "test");
  EXPECT_EQ(names.metadata.at("format"), "pt");
  std::set<std::string> found;
  for (const TensorInfo& tensor : names.tensors) found.insert(tensor.name);
  for (const char* name :
       {"rwkv.embeddings.weight", "rwkv.blocks.0.pre_ln.bias", "rwkv.blocks.1.ln2.weight",
        "rwkv.blocks.1.attention.time_decay", "rwkv.blocks.0.attention.time_mix_receptance",
        "rwkv.blocks.0.attention.output.weight", "rwkv.blocks.1.feed_forward.time_mix_key",
        "rwkv.blocks.0.feed_forward.value.weight", "rwkv.ln_out.bias", "head.weight"}) {
    EXPECT_TRUE(found.contains(name)) << name;
  }
}

TEST_F(Convert, LargeModelsAreSharded) {
  const SmallModel model;
  write(model);
  ConvertOptions options = to(Target::kHuggingFace);
  options.shard_bytes = 200;
  run("hf", options);
  const json index = read_json("hf/model.safetensors.index.json");
  int64_t total = 0;
  std::set<std::string> shards;
  for (const auto& values : model.values) total += std::ssize(values) * 4;
  EXPECT_EQ(index["metadata"]["total_size"], total);
  for (const auto& [name, shard] : index["weight_map"].items()) shards.insert(shard);
  EXPECT_GT(shards.size(), 5U);
  for (const std::string& shard : shards) {
    EXPECT_TRUE(shard.ends_with(fmt::format("-of-{:05}.safetensors", shards.size()))) << shard;
    int64_t bytes = 0;
    const std::string content = read_bytes(path("hf/" + shard));
    const auto part = read_safetensors(as_bytes(content), shard);
    for (const TensorInfo& tensor : part.tensors) bytes += tensor.size_bytes();
    EXPECT_LE(bytes, 200) << shard;
  }
  expect_equal(open_tensor_file(path("hf")), model);
  expect_equal(open_tensor_file(path("hf/model.safetensors.index.json")), model);
  fs::remove(path("hf/" + *shards.begin()));
  expect_message(*shards.begin(), [&] { open_tensor_file(path("hf")); });
}

TEST_F(Convert, OldUploadsInPytorchBinsAreRead) {
  const SmallModel model;
  fs::create_directory(path("hf"));
  write(model, "hf/pytorch_model.bin");
  write_bytes(path("hf/config.json"),
              R"({"model_type":"rwkv","hidden_size":4,"intermediate_size":6})");
  const TensorFile file = open_tensor_file(path("hf"));
  EXPECT_EQ(file.kind(), "pth in a folder");
  expect_equal(file, model);
}

TEST_F(Convert, ConfigJsonMustAgreeWithTheTensors) {
  write(SmallModel());
  run("hf", to(Target::kHuggingFace));
  const std::string good = read_bytes(path("hf/config.json"));
  const auto with = [&](const std::string& key, const json& value) {
    json config = json::parse(good);
    config[key] = value;
    write_bytes(path("hf/config.json"), config.dump());
    return message_of([&] { open_tensor_file(path("hf")); });
  };
  const auto expect = [](const std::string& message, const std::string& part) {
    EXPECT_NE(message.find(part), std::string::npos) << part << "\ngot: " << message;
  };
  expect(with("hidden_size", 8), "hidden_size is 8, the tensors have 4");
  expect(with("num_hidden_layers", 3), "num_hidden_layers is 3, the tensors have 2");
  expect(with("vocab_size", 50277), "vocab_size is 50277, the tensors have 5");
  expect(with("intermediate_size", nullptr), "intermediate_size is 16, the tensors have 6");
  expect(with("attention_hidden_size", 5), "attention_hidden_size is 5, the tensors have 4");
  expect(with("vocab_size", "x"), "no whole number");
  expect(with("model_type", "rwkv7"), "model_type is rwkv7");
  expect(with("model_type", json::array()), "model_type is no text");
  expect(with("layer_norm_epsilon", 1e-3), "layer_norm_epsilon is 0.001");
  EXPECT_EQ(with("hidden_size", 4), "");
  write_bytes(path("hf/config.json"), "{");
  expect(message_of([&] { open_tensor_file(path("hf")); }), "no JSON object");
}

TEST_F(Convert, TiedHeadsAreTheEmbedding) {
  SmallModel model;
  model.drop("head.weight");
  fs::create_directory(path("hf"));
  write(model, "hf/pytorch_model.bin");
  write_bytes(path("hf/config.json"), R"({"tie_word_embeddings":true,"intermediate_size":6})");
  model.specs.push_back(model.specs.front());
  model.specs.back().name = "head.weight";
  model.values.push_back(model.values.front());
  expect_equal(open_tensor_file(path("hf")), model);
}

TEST_F(Convert, BrokenIndexFilesAreRefused) {
  fs::create_directory(path("hf"));
  const auto refused = [&](const std::string& index, const std::string& part) {
    write_bytes(path("hf/model.safetensors.index.json"), index);
    expect_message(part, [&] { open_tensor_file(path("hf")); });
  };
  refused("{", "no JSON object");
  refused("[]", "no JSON object");
  refused("{}", "weight_map is missing");
  refused(R"({"weight_map":{}})", "weight_map is missing or empty");
  refused(R"({"weight_map":[1]})", "weight_map is missing");
  refused(R"({"weight_map":{"a":1}})", "no plain file name");
  refused(R"({"weight_map":{"a":""}})", "no plain file name");
  refused(R"({"weight_map":{"a":"../in.pth"}})", "no plain file name");
  refused(R"({"weight_map":{"a":"/etc/passwd"}})", "no plain file name");
  refused(R"({"weight_map":{"a":".."}})", "no plain file name");
  refused(R"({"weight_map":{"a":"missing.safetensors"}})", "missing.safetensors");
  write_bytes(path("hf/one.safetensors"), tiny_safetensors());
  refused(R"({"weight_map":{"a":"one.safetensors"}})", "1 of its tensors are missing");
  write_bytes(path("hf/model.safetensors.index.json"), R"({"weight_map":{"w":"one.safetensors"}})");
  EXPECT_EQ(open_tensor_file(path("hf")).tensors().size(), 1U);
  expect_message("no model.safetensors", [&] { open_tensor_file(path("")); });
}

TEST_F(Convert, WhatTheTargetCannotExpressIsRefused) {
  const auto refuses = [&](const SmallModel& model, const std::string& reason) {
    write(model);
    for (const Target target : {Target::kHuggingFace, Target::kRwkvCpp}) {
      expect_message("cannot express " + reason, [&] { run("out", to(target)); });
      EXPECT_FALSE(fs::exists(path("out")));
    }
    const ConvertReport report = run("whole.pth", to(Target::kPth));
    EXPECT_EQ(report.notes.size(), 1U) << reason;
    fs::remove(path("whole.pth"));
  };
  SmallModel head_qk;
  head_qk.add("head_q.weight", {3, 4});
  head_qk.add("head_k.weight", {3, 4});
  refuses(head_qk, "Head-QK 3");
  SmallModel pre_ffn;
  pre_ffn.add("blocks.0.ffnPre.key.weight", {6, 4});
  refuses(pre_ffn, "pre_ffn");
  SmallModel tiny;
  tiny.add("blocks.1.tiny_q.weight", {2, 4});
  refuses(tiny, "the tiny attention of RWKV-4a (2)");
  SmallModel qkv;
  qkv.add("blocks.1.att.qq.weight", {2, 4});
  refuses(qkv, "the attention of RWKV-4b");
  SmallModel both = head_qk;
  both.add("blocks.0.ffnPre.key.weight", {6, 4});
  refuses(both, "pre_ffn and Head-QK 3");
}

TEST_F(Convert, OtherVersionsAndOtherModelsAreNamed) {
  SmallModel seven;
  seven.add("blocks.0.att.r_k", {2, 2});
  write(seven);
  expect_message("cannot express RWKV-7", [&] { run("out.bin", to(Target::kRwkvCpp)); });
  EXPECT_NO_THROW(run("out.st", to(Target::kSafetensors)));
  write_bytes(path("other.pth"), tiny_pth());
  expect_message("no RWKV weights", [&] { run("out.pth", to(Target::kPth), "other.pth"); });
  write(SmallModel(1));
  expect_message("one layer", [&] { run("hf", to(Target::kHuggingFace)); });
  expect_message("no bf16", [&] { run("x.bin", to(Target::kRwkvCpp, DType::bf16)); });
}

TEST_F(Convert, MaskBuffersAreLeftOut) {
  SmallModel model;
  const SmallModel plain = model;
  model.add("copy_mask", {3, 3});
  write(model);
  run("out.pth", to(Target::kPth));
  expect_equal(open_tensor_file(path("out.pth")), plain);
}

TEST_F(Convert, NothingIsOverwrittenUnasked) {
  const SmallModel model;
  write(model);
  write_bytes(path("out.pth"), "old");
  expect_message("exists", [&] { run("out.pth", to(Target::kPth)); });
  EXPECT_EQ(read_bytes(path("out.pth")), "old");
  ConvertOptions force = to(Target::kPth);
  force.force = true;
  run("out.pth", force);
  expect_equal(open_tensor_file(path("out.pth")), model);
  expect_message("is (or contains) the input", [&] { run("in.pth", force); });
  fs::create_hard_link(path("in.pth"), path("link.pth"));
  expect_message("is (or contains) the input", [&] { run("link.pth", force); });
  fs::create_directory(path("dir"));
  expect_message("is a folder", [&] { run("dir", force); });
  expect_message("no folder", [&] { run("nowhere/out.pth", force); });
}

TEST_F(Convert, FoldersAreReplacedWholeOrNotAtAll) {
  const SmallModel model;
  write(model);
  run("hf", to(Target::kHuggingFace, DType::f16));
  expect_message("exists", [&] { run("hf", to(Target::kHuggingFace)); });
  ConvertOptions force = to(Target::kHuggingFace);
  force.force = true;
  run("hf", force);
  expect_equal(open_tensor_file(path("hf")), model);
  expect_message("is (or contains) the input",
                 [&] { convert(open_tensor_file(path("hf")), path("hf"), force); });
  write_bytes(path("hf/notes.txt"), "mine");
  expect_message("holds notes.txt", [&] { run("hf", force); });
  EXPECT_EQ(read_bytes(path("hf/notes.txt")), "mine");
  expect_message("is a file",
                 [&] { convert(open_tensor_file(path("hf")), path("in.pth"), force); });
  for (const auto& entry : fs::directory_iterator(path(""))) {
    EXPECT_EQ(entry.path().string().find(".tmp-"), std::string::npos) << entry.path();
  }
}

TEST_F(Convert, TokenizersLieBesideTheWeights) {
  write(SmallModel());
  const std::string tokenizer =
      R"({"added_tokens":[{"id":0,"content":"<|endoftext|>"}],"model":{"type":"BPE"}})";
  write_bytes(path("20B_tokenizer.json"), tokenizer);
  write_bytes(path("rwkv_vocab_v20230424.txt"), "1 'a' 1\n");
  write_bytes(path("other.txt"), "x");
  ConvertOptions options = to(Target::kHuggingFace);
  options.tokenizer = {path("20B_tokenizer.json"), path("rwkv_vocab_v20230424.txt")};
  run("hf", options);
  EXPECT_EQ(read_bytes(path("hf/tokenizer.json")), tokenizer);
  EXPECT_EQ(read_bytes(path("hf/rwkv_vocab_v20230424.txt")), "1 'a' 1\n");
  EXPECT_EQ(read_json("hf/tokenizer_config.json")["eos_token"], "<|endoftext|>");
  EXPECT_EQ(read_json("hf/tokenizer_config.json")["tokenizer_class"], "PreTrainedTokenizerFast");
  EXPECT_EQ(read_json("hf/special_tokens_map.json")["unk_token"], "<|endoftext|>");
  options.tokenizer = {path("other.txt")};
  expect_message("--tokenizer", [&] { run("hf2", options); });
  EXPECT_FALSE(fs::exists(path("hf2")));
  options.target = Target::kPth;
  expect_message("only --to hf", [&] { run("x.pth", options); });
}

TEST(Layout, VersionsAreToldApartByNames) {
  const ShapesByName four = {{"emb.weight", {5, 4}},
                             {"blocks.1.ffn.key.weight", {6, 4}},
                             {"blocks.1.att.key.weight", {8, 4}}};
  const auto version = [&](const ShapesByName& more) {
    ShapesByName shapes = four;
    shapes.insert(more.begin(), more.end());
    return recognise_rwkv(shapes)->version;
  };
  EXPECT_EQ(version({}), "4");
  const ShapesByName five = {{"blocks.0.att.ln_x.weight", {4}}};
  EXPECT_EQ(version(five), "5.0");
  ShapesByName gated = five;
  gated["blocks.0.att.gate.weight"] = {4, 4};
  gated["blocks.0.att.time_decay"] = {4};
  EXPECT_EQ(version(gated), "5.1");
  gated["blocks.0.att.time_decay"] = {2, 2};
  EXPECT_EQ(version(gated), "5.2");
  gated["blocks.0.att.time_maa_x"] = {1, 1, 4};
  EXPECT_EQ(version(gated), "6");
  gated["blocks.0.att.r_k"] = {2, 2};
  EXPECT_EQ(version(gated), "7");
  const auto layout = recognise_rwkv(four);
  EXPECT_EQ(describe(*layout), "RWKV-4, n_layer 2, n_embd 4, dim_att 8, dim_ffn 6, vocab_size 5");
  EXPECT_FALSE(recognise_rwkv({{"emb.weight", {5, 4}}}).has_value());
  EXPECT_FALSE(recognise_rwkv({{"emb.weight", {5}}, {"blocks.0.ffn.key.weight", {6, 4}}}));
}

}  // namespace
}  // namespace rwkv::formats::testing
