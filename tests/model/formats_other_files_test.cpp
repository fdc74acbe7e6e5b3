#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "model/formats/bytes.h"
#include "tests/model/formats_support.h"

// The legacy .pth and rwkv.cpp: files that load, and malformed rwkv.cpp files with a part of their
// message.
namespace rwkv::formats::testing {
namespace {

// --- legacy .pth ---

TEST(LegacyPth, TensorsAreRead) {
  const std::string bytes = legacy({});
  const TensorFileContents file = load(bytes);
  EXPECT_EQ(file.kind, "legacy pth");
  EXPECT_EQ(file.tensors.at(0).name, "w");
  EXPECT_EQ(floats(file.tensors.at(0)), (std::vector<float>{0, 1, 2, 3, 4, 5}));
}

TEST(LegacyPth, StoragesFollowTheListAndNotTheUse) {
  const FakeTensor bias{.name = "b",
                        .type = "HalfStorage",
                        .key = text("9"),
                        .numel = 2,
                        .shape = {2},
                        .strides = {1}};
  const std::string bytes = changed_legacy([&](LegacyParts& p) {
    p.object = dict_of(item({}) + item(bias));
    p.keys = "\x80\x02](" + text("9") + text("0") + "e.";
    p.storages = stored(2, std::string("\0\x3c\0\x40", 4)) + stored(6, six_floats());
  });
  const TensorFileContents file = load(bytes);
  EXPECT_EQ(floats(file.tensors.at(0)), (std::vector<float>{0, 1, 2, 3, 4, 5}));
  EXPECT_EQ(as_text(file.tensors.at(1).contiguous_bytes()), std::string("\0\x3c\0\x40", 4));
}

TEST(LegacyPth, ViewsOfStoragesAreRead) {
  const std::string bytes =
      changed_legacy([](LegacyParts& p) { p.object = dict_of(viewed(3, 2)); });
  const TensorFileContents file = load(bytes);
  EXPECT_EQ(floats(file.tensors.at(0)), (std::vector<float>{3, 4}));
}

TEST(LegacyPth, EveryTruncationIsRefused) {
  const std::string good = legacy({});
  for (size_t length = 0; length < good.size(); ++length) {
    EXPECT_NE(refusal(good.substr(0, length)), "") << "first " << length << " bytes";
  }
}

// --- rwkv.cpp ---

std::string header(uint32_t version = 101, uint32_t vocab = 2, uint32_t embd = 3,
                   uint32_t layers = 1, uint32_t type = 0) {
  return "fmgg" + le32(version) + le32(vocab) + le32(embd) + le32(layers) + le32(type);
}

/// A tensor as it lies in the file; `dims` fastest first.
std::string tensor(const std::string& name, uint32_t type, const std::vector<uint32_t>& dims,
                   const std::string& data) {
  std::string out = le32(dims.size()) + le32(name.size()) + le32(type);
  for (const uint32_t dim : dims) out += le32(dim);
  return out + name + data;
}

std::string raw(const std::vector<float>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float)};
}

const std::string kEmb = tensor("emb.weight", 0, {3, 2}, six_floats());
const std::string kDecayName = "blocks.0.att.time_decay";

std::string decay_file(const std::vector<float>& values) {
  return header() + kEmb +
         tensor(kDecayName, 0, {static_cast<uint32_t>(values.size())}, raw(values));
}

TEST(RwkvCpp, SizesAreTurnedRoundAndDecayTurnedBack) {
  const std::string bytes = decay_file({-std::exp(1.5F), -std::exp(-5.0F), -0.0F});
  const TensorFileContents file = load(bytes);
  EXPECT_EQ(file.kind, "rwkv.cpp");
  EXPECT_EQ(file.tensors.at(0).shape, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(floats(file.tensors.at(0)), (std::vector<float>{0, 1, 2, 3, 4, 5}));
  const std::vector<float> decay = floats(file.tensors.at(1));
  EXPECT_FLOAT_EQ(decay.at(0), 1.5F);
  EXPECT_FLOAT_EQ(decay.at(1), -5.0F);
  EXPECT_EQ(std::exp(decay.at(2)), 0.0F);
}

TEST(RwkvCpp, MalformedFilesAreRefused) {
  const std::string layer = tensor("blocks.0.ln1.bias", 0, {1}, raw({1}));
  expect_refused({
      {"only the magic", "fmgg", "header"},
      {"header cut short", header().substr(0, 23), "header"},
      {"no tensors", header(), "no tensors"},
      {"version 99", header(99) + kEmb, "version is 99"},
      {"version 2^31", header(0x80000000) + kEmb, "version is -2147483648"},
      {"quantised", header(101, 2, 3, 1, 2) + kEmb, "quantised (Q4_0)"},
      {"quantised tensor", header() + tensor("w", 9, {32}, std::string(34, 'x')),
       "w is quantised (Q8_0)"},
      {"Q5_1", header(101, 2, 3, 1, 8) + kEmb, "Q5_1"},
      {"unknown type", header() + tensor("w", 17, {3}, raw({1, 2, 3})), "unknown type 17"},
      {"unknown type of the model", header(101, 2, 3, 1, 77) + kEmb, "unknown type 77"},
      {"rank 0", header() + tensor("w", 0, {}, ""), "0 dimensions"},
      {"rank 4", header() + tensor("w", 0, {1, 1, 1, 1}, raw({1})), "4 dimensions"},
      {"rank -1", header() + le32(0xffffffff) + le32(1) + le32(0) + "w", "-1 dimensions"},
      {"name of 0 bytes", header() + tensor("", 0, {1}, raw({1})), "name of 0 bytes"},
      {"name of 2^31-1 bytes", header() + le32(1) + le32(0x7fffffff) + le32(0) + le32(1) + "w",
       "cut short"},
      {"negative name", header() + le32(1) + le32(0xfffffff0) + le32(0) + le32(1) + "w",
       "name of -16 bytes"},
      {"name of no UTF-8", header() + tensor("\xff", 0, {1}, raw({1})), "no UTF-8"},
      {"name twice", header() + kEmb + kEmb, "two tensors named emb.weight"},
      {"size 0", header() + tensor("w", 0, {0}, ""), "impossible sizes"},
      {"negative size", header() + tensor("w", 0, {0xffffffff}, ""), "impossible sizes"},
      {"sizes wrap around", header() + tensor("w", 0, {0x7fffffff, 0x7fffffff, 0x7fffffff}, ""),
       "impossible sizes"},
      {"huge size", header() + tensor("w", 0, {0x7fffffff}, raw({1})), "cut short"},
      {"data cut short", header() + kEmb.substr(0, kEmb.size() - 1), "cut short"},
      {"tail", header() + kEmb + layer + "x", "cut short"},
      {"other vocabulary", header(101, 5) + kEmb + layer, "n_vocab 5"},
      {"other width", header(101, 2, 4) + kEmb + layer, "n_embed 4"},
      {"other layers", header(101, 2, 3, 7) + kEmb + layer, "n_layer 7, its tensors 1"},
      {"emb is a vector", header() + tensor("emb.weight", 0, {6}, six_floats()) + layer, "[6, 6]"},
      {"decay positive", decay_file({1.0F}), "no decay"},
      {"decay NaN", decay_file({NAN}), "no decay"},
      {"decay infinite", decay_file({-INFINITY}), "no decay"},
      {"decay in fp16", header() + kEmb + tensor(kDecayName, 1, {1}, "xx"), "is not fp32"},
      {"RWKV-5", header() + tensor("blocks.0.att.ln_x.weight", 0, {1}, raw({1})), "RWKV-5"},
      {"RWKV-6", header() + tensor("blocks.0.att.time_maa_x", 0, {1}, raw({1})), "RWKV-6"},
      {"RWKV-7", header() + tensor("blocks.0.att.r_k", 0, {1}, raw({1})), "RWKV-7"},
  });
}

TEST(RwkvCpp, EveryTruncationIsRefused) {
  const std::string good = decay_file({-1.0F, -2.0F});
  for (size_t length = 0; length < good.size(); ++length) {
    EXPECT_NE(refusal(good.substr(0, length)), "") << "first " << length << " bytes";
  }
}

}  // namespace
}  // namespace rwkv::formats::testing
