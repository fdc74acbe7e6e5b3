#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <set>
#include <string>
#include <vector>

#include "data/base/crc32c.h"
#include "data/base/error.h"
#include "model/formats/bytes.h"
#include "model/formats/pickle_reader.h"
#include "model/formats/pth_writer.h"
#include "model/formats/safetensors.h"
#include "model/formats/tensor_file.h"
#include "model/formats/zip_reader.h"
#include "tests/model/formats_support.h"

namespace rwkv::formats::testing {
namespace {

namespace fs = std::filesystem;

/// Specs with bytes that count up, so that every tensor differs.
struct Model {
  std::vector<TensorSpec> specs;
  std::vector<std::string> data;

  void add(const std::string& name, DType dtype, std::vector<int64_t> shape) {
    specs.push_back({.name = name, .dtype = dtype, .shape = std::move(shape)});
    std::string bytes(static_cast<size_t>(*byte_size(dtype, specs.back().shape)), '\0');
    for (char& c : bytes) c = static_cast<char>(next_++ * 7 & 0x7f);
    data.push_back(std::move(bytes));
  }
  [[nodiscard]] TensorBytes bytes() const {
    return [this](size_t index) { return as_bytes(data[index]); };
  }

 private:
  unsigned next_ = 1;
};

Model all_pth_dtypes() {
  Model model;
  for (const DType dtype : {DType::f64, DType::f32, DType::f16, DType::bf16, DType::i64, DType::i32,
                            DType::i16, DType::i8, DType::u8, DType::boolean}) {
    model.add("blocks.0." + std::string(dtype_name(dtype)), dtype, {3, 5});
  }
  model.add("scalar", DType::f32, {});
  model.add("none", DType::f32, {0, 4});
  model.add("time_mix", DType::bf16, {1, 1, 300});
  model.add("\xc3\xbc \"quoted\"\n", DType::u8, {70000});
  return model;
}

void expect_same(const TensorFile& file, const Model& model) {
  ASSERT_EQ(file.tensors().size(), model.specs.size());
  for (size_t i = 0; i < model.specs.size(); ++i) {
    SCOPED_TRACE(model.specs[i].name);
    const TensorInfo* tensor = file.find(model.specs[i].name);
    ASSERT_NE(tensor, nullptr);
    EXPECT_EQ(tensor->dtype, model.specs[i].dtype);
    EXPECT_EQ(tensor->shape, model.specs[i].shape);
    EXPECT_TRUE(tensor->is_contiguous());
    EXPECT_EQ(as_text(tensor->contiguous_bytes()), model.data[i]);
    EXPECT_NO_THROW(file.verify(*tensor));
  }
}

void expect_written(const WrittenFile& written, const fs::path& path) {
  const std::string bytes = read_bytes(path);
  EXPECT_EQ(written.size_bytes, static_cast<int64_t>(bytes.size()));
  EXPECT_EQ(written.crc32c, crc32c(as_bytes(bytes)));
}

// --- .pth ---

TEST(PthFormat, WhatIsWrittenIsReadBack) {
  const ScratchFolder folder;
  const Model model = all_pth_dtypes();
  const WrittenFile written = write_pth(folder.file("m.pth"), model.specs, model.bytes());
  expect_written(written, folder.file("m.pth"));
  const TensorFile file = open_tensor_file(folder.file("m.pth"));
  EXPECT_EQ(file.kind(), "pth");
  EXPECT_TRUE(file.warnings().empty());
  expect_same(file, model);
}

TEST(PthFormat, OrderOfTensorsIsKept) {
  const ScratchFolder folder;
  const Model model = all_pth_dtypes();
  write_pth(folder.file("m.pth"), model.specs, model.bytes());
  const TensorFile file = open_tensor_file(folder.file("m.pth"));
  for (size_t i = 0; i < model.specs.size(); ++i) {
    EXPECT_EQ(file.tensors()[i].name, model.specs[i].name);
  }
}

TEST(PthFormat, DataLiesAtMultiplesOf64Bytes) {
  const ScratchFolder folder;
  const Model model = all_pth_dtypes();
  write_pth(folder.file("m.pth"), model.specs, model.bytes());
  const std::string bytes = read_bytes(folder.file("m.pth"));
  const ZipReader zip(as_bytes(bytes), "test");
  for (const ZipEntry& entry : zip.entries()) {
    EXPECT_EQ((entry.data.data() - as_bytes(bytes).data()) % 64, 0) << entry.name;
    EXPECT_TRUE(entry.name.starts_with("archive/")) << entry.name;
  }
  EXPECT_EQ(as_text(zip.find("archive/version")->data), "3\n");
  EXPECT_EQ(as_text(zip.find("archive/byteorder")->data), "little");
}

TEST(PthFormat, LocalHeadersHoldTrueSizesAndChecksums) {
  const ScratchFolder folder;
  Model model;
  model.add("w", DType::f32, {6});
  write_pth(folder.file("m.pth"), model.specs, model.bytes());
  const std::string bytes = read_bytes(folder.file("m.pth"));
  const ZipReader zip(as_bytes(bytes), "test");
  const ZipEntry& entry = *zip.find("archive/data/0");
  const size_t at = entry.header_offset;
  EXPECT_EQ(load_le<uint16_t>(as_bytes(bytes), at + 6), 0);  // flags
  EXPECT_EQ(load_le<uint32_t>(as_bytes(bytes), at + 14), entry.crc32);
  EXPECT_EQ(load_le<uint32_t>(as_bytes(bytes), at + 18), 24U);
  EXPECT_EQ(load_le<uint32_t>(as_bytes(bytes), at + 22), 24U);
  EXPECT_NO_THROW(zip.verify(entry, entry.data));
}

TEST(PthFormat, PickleIsTheDocumentedOne) {
  const std::vector<TensorSpec> specs = {
      {.name = "w", .dtype = DType::bf16, .shape = {50277, 5120}}};
  const std::string wanted =
      std::string("\x80\x02}(X\x01\0\0\0w", 10) + "ctorch._utils\n_rebuild_tensor_v2\n((" +
      text("storage") + "ctorch\nBFloat16Storage\n" + text("0") + text("cpu") + "J" +
      le32(257418240) + std::string("tQK\0", 4) + "(J" + le16(50277).substr(0, 0);
  const std::string pickle = make_state_dict_pickle(specs);
  EXPECT_TRUE(pickle.starts_with(wanted.substr(0, wanted.size() - 1)));
  EXPECT_TRUE(
      pickle.ends_with("\x89"
                       "ccollections\nOrderedDict\n)RtRu."));
  const Pickle read = read_pickle(as_bytes(pickle), "test");
  EXPECT_EQ(read.bytes_used, pickle.size());
  EXPECT_EQ(read.tensors.at(0).strides, (std::vector<int64_t>{5120, 1}));
}

TEST(PthFormat, LargeNumbersUseTheLongForm) {
  const std::vector<TensorSpec> specs = {
      {.name = "w", .dtype = DType::u8, .shape = {3, 1LL << 31}}};
  const std::string pickle = make_state_dict_pickle(specs);
  EXPECT_NE(pickle.find("\x8a\x08" + le64(3LL << 31)), std::string::npos);
  const Pickle read = read_pickle(as_bytes(pickle), "test");
  EXPECT_EQ(read.storages.at(0).numel, 3LL << 31);
}

// With every number above 100 in a zip64 field, a small file has the layout of one beyond 4 GiB.
TEST(PthFormat, Zip64FieldsAreWrittenAndRead) {
  const ScratchFolder folder;
  const Model model = all_pth_dtypes();
  const WrittenFile written = write_pth(folder.file("m.pth"), model.specs, model.bytes(), 100);
  expect_written(written, folder.file("m.pth"));
  expect_same(open_tensor_file(folder.file("m.pth")), model);
  const std::string bytes = read_bytes(folder.file("m.pth"));
  EXPECT_NE(bytes.find("PK\x06\x06"), std::string::npos);
  EXPECT_EQ(load_le<uint32_t>(as_bytes(bytes), bytes.size() - 6), 0xffffffffU);
  const ZipReader zip(as_bytes(bytes), "test");
  for (const ZipEntry& entry : zip.entries()) {
    const uint32_t local_size = load_le<uint32_t>(as_bytes(bytes), entry.header_offset + 22);
    EXPECT_EQ(local_size, entry.size_bytes >= 100 ? 0xffffffffU : entry.size_bytes) << entry.name;
    EXPECT_EQ((entry.data.data() - as_bytes(bytes).data()) % 64, 0) << entry.name;
  }
}

TEST(PthFormat, MoreEntriesThan65535NeedZip64) {
  const ScratchFolder folder;
  Model model;
  for (int i = 0; i < 40000; ++i) model.add("t" + std::to_string(i), DType::u8, {1});
  write_pth(folder.file("m.pth"), model.specs, model.bytes());
  EXPECT_EQ(open_tensor_file(folder.file("m.pth")).tensors().size(), 40000U);
  FakeZip zip;
  for (int i = 0; i < 65536; ++i) zip.entries.push_back({.name = std::to_string(i), .content = ""});
  zip.zip64_end = true;
  zip.count = 0xffff;
  const std::string bytes = make_zip(zip);
  EXPECT_EQ(ZipReader(as_bytes(bytes), "test").entries().size(), 65536U);
}

TEST(PthFormat, DTypesWithoutStorageTypeAreRefused) {
  const ScratchFolder folder;
  Model model;
  model.add("w", DType::u16, {2});
  EXPECT_THROW(write_pth(folder.file("m.pth"), model.specs, model.bytes()), UserError);
  EXPECT_FALSE(fs::exists(folder.file("m.pth")));
}

TEST(PthFormat, MisuseOfTheWriterIsALogicErrorAndLeavesNoFile) {
  const ScratchFolder folder;
  const fs::path path = folder.file("m.pth");
  write_bytes(path, "old");
  Model twice;
  twice.add("w", DType::f32, {2});
  twice.add("w", DType::f32, {2});
  EXPECT_THROW(write_pth(path, twice.specs, twice.bytes()), std::logic_error);
  Model wrong;
  wrong.add("w", DType::f32, {2});
  wrong.data[0] += "x";
  EXPECT_THROW(write_pth(path, wrong.specs, wrong.bytes()), std::logic_error);
  EXPECT_THROW(write_safetensors(path, wrong.specs, wrong.bytes()), std::logic_error);
  EXPECT_EQ(read_bytes(path), "old");
  EXPECT_EQ(std::distance(fs::directory_iterator(path.parent_path()), {}), 1);
}

TEST(PthFormat, StridesAndSharedStoragesAreKept) {
  const FakeTensor rows{.name = "rows"};
  const FakeTensor columns{.name = "columns", .shape = {3, 2}, .strides = {1, 3}};
  const FakeTensor middle{.name = "middle", .offset = 1, .shape = {2, 2}, .strides = {3, 1}};
  const std::string bytes = pth(dict_of(item(rows) + item(columns) + item(middle)));
  const TensorFileContents file = load(bytes);
  ASSERT_EQ(file.tensors.size(), 3U);
  EXPECT_EQ(file.tensors[0].storage.data(), file.tensors[1].storage.data());
  EXPECT_EQ(floats(file.tensors[0]), (std::vector<float>{0, 1, 2, 3, 4, 5}));
  EXPECT_EQ(floats(file.tensors[1]), (std::vector<float>{0, 3, 1, 4, 2, 5}));
  EXPECT_EQ(floats(file.tensors[2]), (std::vector<float>{1, 2, 4, 5}));
  EXPECT_FALSE(file.tensors[1].is_contiguous());
  EXPECT_THROW((void)file.tensors[1].contiguous_bytes(), std::logic_error);
}

TEST(PthFormat, ExpandedTensorsRepeatTheirElements) {
  const std::string bytes = pth(dict_of(item({.shape = {2, 2, 3}, .strides = {0, 3, 1}})));
  const TensorFileContents file = load(bytes);
  EXPECT_EQ(floats(file.tensors[0]), (std::vector<float>{0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5}));
}

TEST(PthFormat, DeflatedEntriesAreInflated) {
  FakeZip zip = pth_zip(dict_of(item({}) + item({.name = "again"})));
  for (FakeEntry& entry : zip.entries) entry.deflate = true;
  const std::string bytes = make_zip(zip);
  const TensorFileContents file = load(bytes);
  EXPECT_EQ(floats(file.tensors.at(1)), (std::vector<float>{0, 1, 2, 3, 4, 5}));
  EXPECT_EQ(file.buffers.size(), 2U) << "the pickle, and the storage once";
}

TEST(PthFormat, ZeroChecksumsGiveAWarning) {
  FakeZip zip = pth_zip(dict_of(item({})));
  for (FakeEntry& entry : zip.entries) entry.crc32 = 0;
  const std::string bytes = make_zip(zip);
  const TensorFileContents file = load(bytes);
  ASSERT_EQ(file.warnings.size(), 1U);
  EXPECT_NE(file.warnings[0].find("without checksums"), std::string::npos);
}

TEST(PthFormat, WeightsUnderAKeyAreFound) {
  const FakeTensor tensor{.name = "emb.weight"};
  for (const std::string key : {"model", "state_dict", "module"}) {
    const std::string inner = "}(" + item(tensor) + "u";
    const std::string bytes = pth(dict_of(text("epoch") + "K\x07" + text(key) + inner));
    EXPECT_EQ(load(bytes).tensors.at(0).name, "emb.weight") << key;
  }
  const std::string two_deep = "}(" + text("module") + "}(" + item(tensor) + "uu";
  const std::string bytes = pth(dict_of(text("model") + two_deep));
  EXPECT_EQ(load(bytes).tensors.at(0).name, "emb.weight");
}

TEST(PthFormat, CommonPrefixesAreDropped) {
  for (const std::string prefix :
       {"module.", "model.", "_forward_module.", "_orig_mod.module.model."}) {
    const std::string bytes = pth(
        dict_of(item({.name = prefix + "emb.weight"}) + item({.name = prefix + "head.weight"})));
    const TensorFileContents file = load(bytes);
    EXPECT_EQ(file.tensors.at(0).name, "emb.weight") << prefix;
    EXPECT_EQ(file.tensors.at(1).name, "head.weight") << prefix;
  }
  const std::string mixed =
      pth(dict_of(item({.name = "model.emb.weight"}) + item({.name = "head"})));
  EXPECT_EQ(load(mixed).tensors.at(0).name, "model.emb.weight");
}

TEST(PthFormat, ScalarsBesideTheTensorsAreMetadata) {
  const std::string real = "G" + std::string("\x3f\xe0\0\0\0\0\0\0", 8);  // 0.5, big-endian
  const std::string bytes =
      pth(dict_of(item({}) + text("step") + integer(-3) + text("lr") + real + text("name") +
                  text("x") + text("done") + "\x88" + text("none") + "N" + text("list") + "]"));
  const auto metadata = load(bytes).metadata;
  EXPECT_EQ(metadata.size(), 4U);
  EXPECT_EQ(metadata.at("step"), "-3");
  EXPECT_EQ(metadata.at("lr"), "0.5");
  EXPECT_EQ(metadata.at("name"), "x");
  EXPECT_EQ(metadata.at("done"), "true");
}

// --- pickles of other protocols and years ---

TEST(PickleReader, ReadsNumbersOfEveryForm) {
  const std::string bytes = "\x80\x02(K\xffM\xff\xffJ" + le32(0xffffffff) +
                            std::string("\x8a\0", 2) + "\x8a\x01\x80" +
                            "\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19t.";
  const Pickle pickle = read_pickle(as_bytes(bytes), "test");
  const auto& items = pickle.items(pickle.root);
  ASSERT_EQ(items.size(), 6U);
  EXPECT_EQ(items[0].bits, 255);
  EXPECT_EQ(items[1].bits, 65535);
  EXPECT_EQ(items[2].bits, -1);
  EXPECT_EQ(items[3].bits, 0);
  EXPECT_EQ(items[4].bits, -128);
  EXPECT_TRUE(items[5].is(PickleKind::big_integer));
}

TEST(PickleReader, ReadsProtocol4) {
  const std::string name("\x8c\x01w", 3);
  const std::string body = "}\x94(" + name +
                           "\x94"
                           "\x8c\x0ctorch._utils\x94"
                           "\x8c\x12_rebuild_tensor_v2\x94\x93\x94(("
                           "\x8c\x07storage\x94" +
                           global("torch", "HalfStorage") +
                           "\x8c\x01"
                           "0\x8c\x03"
                           "cpuK\x06t\x94QK";
  std::string bytes = "\x80\x04\x95" + le64(20) + body;
  bytes += std::string("\0", 1) + "K\x02K\x03\x86K\x03K\x01\x86\x89}t\x94R\x94u.";
  const Pickle pickle = read_pickle(as_bytes(bytes), "test");
  const auto tensor = pickle.lookup(pickle.root, "w");
  ASSERT_TRUE(tensor.has_value());
  EXPECT_EQ(pickle.tensor(*tensor).shape, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(pickle.storages.at(0).dtype, DType::f16);
}

TEST(PickleReader, ReadsPython2Files) {
  const std::string bytes = "\x80\x02}U\x01w" + global("torch._utils", "_rebuild_tensor") +
                            "((U\x07storage" + global("torch", "LongStorage") + "J" +
                            le32(1234567) +
                            "U\x03"
                            "cpuK\x06NtQK\x01K\x05\x85K\x01\x85tRs.";
  const Pickle pickle = read_pickle(as_bytes(bytes), "test");
  EXPECT_EQ(pickle.storages.at(0).key, "1234567");
  EXPECT_EQ(pickle.tensors.at(0).offset, 1);
}

TEST(PickleReader, ObjectsAreSharedByReference) {
  // The list goes into the dict before it gets its item.
  const std::string bytes = "\x80\x02}q\x01" + text("a") + "]q\x02s" +
                            "h\x02K\x05"
                            "a" +
                            "0";
  EXPECT_THROW((void)read_pickle(as_bytes(bytes), "test"), UserError);  // POP is not on the list
  const std::string shared =
      "\x80\x02]q\x01h\x01K\x05"
      "a\x86.";
  const Pickle pickle = read_pickle(as_bytes(shared), "test");
  const auto& both = pickle.items(pickle.root);
  EXPECT_EQ(pickle.items(both.at(0)).size(), 1U);
  EXPECT_EQ(pickle.items(both.at(0)).at(0).bits, 5);
}

// --- safetensors ---

TEST(SafetensorsFormat, WhatIsWrittenIsReadBack) {
  const ScratchFolder folder;
  Model model = all_pth_dtypes();
  for (const DType dtype : {DType::u64, DType::u32, DType::u16, DType::f8_e4m3, DType::f8_e5m2}) {
    model.add(std::string(dtype_name(dtype)), dtype, {9});
  }
  const fs::path path = folder.file("m.safetensors");
  const WrittenFile written =
      write_safetensors(path, model.specs, model.bytes(), {{"note", "\"\xc3\xa4\"\n"}});
  expect_written(written, path);
  const TensorFile file = open_tensor_file(path);
  EXPECT_EQ(file.kind(), "safetensors");
  EXPECT_EQ(file.metadata().at("format"), "pt");
  EXPECT_EQ(file.metadata().at("note"), "\"\xc3\xa4\"\n");
  expect_same(file, model);
}

TEST(SafetensorsFormat, BytesAreTheReferenceWritersApartFromPadding) {
  const ScratchFolder folder;
  Model model;
  model.add("b", DType::bf16, {2});
  model.add("a", DType::bf16, {1});
  model.add("z", DType::f32, {});
  model.add("i", DType::i64, {1});
  std::vector<size_t> asked;
  const TensorBytes bytes = [&](size_t index) {
    asked.push_back(index);
    return as_bytes(model.data[index]);
  };
  write_safetensors(folder.file("m"), model.specs, bytes);
  EXPECT_EQ(asked, (std::vector<size_t>{3, 2, 1, 0}));
  const std::string header =
      R"({"__metadata__":{"format":"pt"},"i":{"dtype":"I64","shape":[1],"data_offsets":[0,8]},)"
      R"("z":{"dtype":"F32","shape":[],"data_offsets":[8,12]},)"
      R"("a":{"dtype":"BF16","shape":[1],"data_offsets":[12,14]},)"
      R"("b":{"dtype":"BF16","shape":[2],"data_offsets":[14,18]}})";
  const std::string file = read_bytes(folder.file("m"));
  const auto length = load_le<uint64_t>(as_bytes(file), 0);
  EXPECT_EQ((8 + length) % 64, 0U);
  EXPECT_LT(length - header.size(), 64U);
  EXPECT_EQ(file.substr(8, length), header + std::string(length - header.size(), ' '));
  EXPECT_EQ(file.substr(8 + length), model.data[3] + model.data[2] + model.data[1] + model.data[0]);
}

TEST(SafetensorsFormat, FilesWithoutTensorsAreAllowed) {
  const ScratchFolder folder;
  write_safetensors(folder.file("m"), {}, [](size_t) { return std::span<const std::byte>(); });
  EXPECT_TRUE(open_tensor_file(folder.file("m")).tensors().empty());
}

TEST(SafetensorsFormat, OrderOfTheHeaderIsFree) {
  const std::string bytes =
      safetensors(R"({"b":{"data_offsets":[24,28],"shape":[1],"dtype":"F32"},)"
                  R"("a":{"shape":[6],"data_offsets":[0,24],"dtype":"F32"}})",
                  six_floats() + std::string(4, '\0'));
  const TensorFileContents file = load(bytes);
  EXPECT_EQ(file.tensors.at(0).name, "a");
  EXPECT_EQ(floats(file.tensors.at(0)), (std::vector<float>{0, 1, 2, 3, 4, 5}));
}

TEST(SafetensorsFormat, ReservedNamesAreALogicError) {
  const ScratchFolder folder;
  Model model;
  model.add("__metadata__", DType::u8, {1});
  EXPECT_THROW(write_safetensors(folder.file("m"), model.specs, model.bytes()), std::logic_error);
  const auto none = [](size_t) { return std::span<const std::byte>(); };
  EXPECT_THROW(write_safetensors(folder.file("m"), {}, none, {{"format", "x"}}), std::logic_error);
}

// --- files ---

TEST(TensorFile, KindIsDecidedByContent) {
  const ScratchFolder folder;
  write_bytes(folder.file("a.safetensors"), tiny_pth());
  write_bytes(folder.file("b.pth"), tiny_safetensors());
  EXPECT_EQ(open_tensor_file(folder.file("a.safetensors")).kind(), "pth");
  EXPECT_EQ(open_tensor_file(folder.file("b.pth")).kind(), "safetensors");
}

TEST(TensorFile, LengthOfTheHeaderIsNotTakenForText) {
  // 0x3c is '<', 0x80 begins a pickle, 0x5b and 0x7b begin JSON.
  for (const size_t length : {0x3cU, 0x80U, 0x5bU, 0x7bU, 0x8b1fU}) {
    const std::string bytes = safetensors("{}" + std::string(length - 2, ' '), "");
    EXPECT_EQ(refusal(bytes), "") << length;
  }
}

TEST(TensorFile, UnreadableFilesAreNamed) {
  const ScratchFolder folder;
  EXPECT_THROW(open_tensor_file(folder.file("missing.pth")), UserError);
  EXPECT_THROW(open_tensor_file(folder.file(".")), UserError);
  EXPECT_THROW(open_tensor_file("/dev/zero"), UserError);
  write_bytes(folder.file("new\nline.pth"), "");
  try {
    open_tensor_file(folder.file("new\nline.pth"));
    FAIL();
  } catch (const UserError& error) {
    EXPECT_NE(std::string(error.what()).find("new\\nline.pth is empty"), std::string::npos);
  }
}

TEST(TensorFile, ViewsSurviveAMove) {
  const ScratchFolder folder;
  write_bytes(folder.file("m.pth"), tiny_pth());
  TensorFile first = open_tensor_file(folder.file("m.pth"));
  const TensorFile second = std::move(first);
  EXPECT_EQ(floats(*second.find("w")).at(5), 5.0F);
  EXPECT_EQ(second.find("nothing"), nullptr);
}

TEST(TensorFile, DamagedDataIsFoundByVerify) {
  const ScratchFolder folder;
  std::string bytes = tiny_pth();
  bytes[bytes.find(six_floats())] ^= 1;
  write_bytes(folder.file("m.pth"), bytes);
  const TensorFile file = open_tensor_file(folder.file("m.pth"));
  EXPECT_THROW(file.verify(*file.find("w")), UserError);
  EXPECT_NO_THROW(file.verify(*file.find("b")));
}

TEST(TensorFile, ChangesOnDiskAreNoticed) {
  const ScratchFolder folder;
  write_bytes(folder.file("m.pth"), tiny_pth());
  const TensorFile file = open_tensor_file(folder.file("m.pth"));
  EXPECT_NO_THROW(file.check_unchanged());
  write_bytes(folder.file("m.pth"), "short");
  EXPECT_THROW(file.check_unchanged(), UserError);
}

TEST(TensorFile, SizesOfDTypesAndShapes) {
  EXPECT_EQ(byte_size(DType::bf16, std::vector<int64_t>{3, 5}), 30);
  EXPECT_EQ(byte_size(DType::f64, std::vector<int64_t>{}), 8);
  EXPECT_EQ(byte_size(DType::f64, std::vector<int64_t>{0, 9}), 0);
  EXPECT_EQ(byte_size(DType::f64, std::vector<int64_t>{-1}), std::nullopt);
  EXPECT_EQ(byte_size(DType::f64, std::vector<int64_t>{1LL << 60}), std::nullopt);
  EXPECT_EQ(byte_size(DType::u8, std::vector<int64_t>{0, 1LL << 62, 4}), std::nullopt);
  EXPECT_EQ(contiguous_strides(std::vector<int64_t>{2, 0, 3}), (std::vector<int64_t>{3, 3, 1}));
}

TEST(Bytes, Utf8IsCheckedStrictly) {
  for (const std::string good : {"", "plain", "\xc3\xbc", "\xe2\x82\xac", "\xf0\x9f\x98\x80"}) {
    EXPECT_TRUE(is_utf8(good));
  }
  for (const std::string bad : {"\x80", "\xc3", "\xc0\x80", "\xe0\x80\x80", "\xed\xa0\x80",
                                "\xf4\x90\x80\x80", "\xf8\x88\x80\x80\x80", "\xff", "\xe2\x82"}) {
    EXPECT_FALSE(is_utf8(bad));
  }
}

// Files of the reference implementations, written by Python's torch.save.
TEST(Golden, EveryPthFileLoadsAndMatchesItsChecksums) {
  const char* folder = std::getenv("RWKV_GOLDEN_DIR");
  size_t files = 0;
  for (const auto& entry :
       fs::recursive_directory_iterator(folder != nullptr ? folder : RWKV_GOLDEN_DIR_DEFAULT)) {
    if (entry.path().extension() != ".pth") continue;
    SCOPED_TRACE(entry.path().string());
    const TensorFile file = open_tensor_file(entry.path());
    EXPECT_FALSE(file.tensors().empty());
    EXPECT_TRUE(file.warnings().empty());
    for (const TensorInfo& tensor : file.tensors()) EXPECT_NO_THROW(file.verify(tensor));
    ++files;
  }
  EXPECT_GT(files, 0U);
}

}  // namespace
}  // namespace rwkv::formats::testing
