#include "tests/model/formats_support.h"

#include <gtest/gtest.h>
#include <stdlib.h>
#include <zlib.h>

#include <cstring>
#include <fstream>
#include <iterator>
#include <stdexcept>

#include "data/base/error.h"
#include "model/formats/bytes.h"

namespace rwkv::formats::testing {
namespace {

struct Placed {
  FakeEntry entry;
  std::string packed;
  uint32_t offset = 0;
};

std::string join(const std::vector<std::string>& parts) {
  std::string out;
  for (const std::string& part : parts) out += part;
  return out;
}

uint32_t crc_of(const std::string& content) {
  return static_cast<uint32_t>(
      ::crc32_z(0, reinterpret_cast<const Bytef*>(content.data()), content.size()));
}

uint16_t method_of(const FakeEntry& entry) {
  return entry.method.value_or(static_cast<uint16_t>(entry.deflate ? 8 : 0));
}

uint16_t flags_of(const FakeEntry& entry) {
  return static_cast<uint16_t>(entry.flags | (entry.torch_style ? 0x0808 : 0));
}

std::string local_part(const Placed& placed) {
  const FakeEntry& entry = placed.entry;
  const std::string name = entry.local_name.value_or(entry.name);
  const std::string crc = le32(entry.crc32.value_or(crc_of(entry.content)));
  const std::string sizes = le32(placed.packed.size()) + le32(entry.content.size());
  const bool late = entry.torch_style;
  return join({"PK\x03\x04", le16(20), le16(flags_of(entry)),
               le16(entry.local_method.value_or(method_of(entry))), le32(0),
               late ? std::string(12, '\0') : crc + sizes, le16(name.size()), le16(0), name,
               placed.packed, late ? "PK\x07\x08" + crc + sizes : ""});
}

std::string central_part(const Placed& placed) {
  const FakeEntry& entry = placed.entry;
  return join({"PK\x01\x02", le16(20), le16(20), le16(flags_of(entry)), le16(method_of(entry)),
               le32(0), le32(entry.crc32.value_or(crc_of(entry.content))),
               le32(entry.packed_size.value_or(static_cast<uint32_t>(placed.packed.size()))),
               le32(entry.size.value_or(static_cast<uint32_t>(entry.content.size()))),
               le16(entry.name.size()), le16(entry.extra.size()), le16(0), le16(entry.disk),
               le16(0), le32(0), le32(entry.offset.value_or(placed.offset)), entry.name,
               entry.extra});
}

}  // namespace

std::string le16(uint64_t value) {
  std::string out;
  append_le(out, static_cast<uint16_t>(value));
  return out;
}

std::string le32(uint64_t value) {
  std::string out;
  append_le(out, static_cast<uint32_t>(value));
  return out;
}

std::string le64(uint64_t value) {
  std::string out;
  append_le(out, value);
  return out;
}

std::string raw_deflate(const std::string& content) {
  z_stream stream{};
  if (::deflateInit2(&stream, 9, Z_DEFLATED, -MAX_WBITS, 9, Z_DEFAULT_STRATEGY) != Z_OK) {
    throw std::runtime_error("deflateInit2");
  }
  std::string packed(::deflateBound(&stream, content.size()), '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(content.data()));
  stream.avail_in = static_cast<uInt>(content.size());
  stream.next_out = reinterpret_cast<Bytef*>(packed.data());
  stream.avail_out = static_cast<uInt>(packed.size());
  ::deflate(&stream, Z_FINISH);
  packed.resize(stream.total_out);
  ::deflateEnd(&stream);
  return packed;
}

std::string make_zip(const FakeZip& zip) {
  std::string out;
  std::string directory;
  for (const FakeEntry& entry : zip.entries) {
    const Placed placed{.entry = entry,
                        .packed = entry.deflate ? raw_deflate(entry.content) : entry.content,
                        .offset = static_cast<uint32_t>(out.size())};
    out += local_part(placed);
    directory += central_part(placed);
  }
  const size_t directory_at = out.size();
  out += directory + zip.gap;
  if (zip.zip64_end) {
    const size_t record_at = out.size();
    const uint64_t count = zip.zip64_count.value_or(zip.entries.size());
    out += join({"PK\x06\x06", le64(zip.zip64_record_size.value_or(44)), le16(45), le16(45),
                 le32(0), le32(0), le64(count), le64(count), le64(directory.size()),
                 le64(zip.zip64_offset.value_or(directory_at))});
    out += join({"PK\x06\x07", le32(0), le64(zip.locator_offset.value_or(record_at)), le32(1)});
  }
  const uint16_t count = zip.count.value_or(static_cast<uint16_t>(zip.entries.size()));
  out += join({"PK\x05\x06", le16(zip.disk), le16(0), le16(count), le16(count),
               le32(zip.directory_size.value_or(static_cast<uint32_t>(directory.size()))),
               le32(zip.directory_offset.value_or(static_cast<uint32_t>(directory_at))),
               le16(zip.comment.size()), zip.comment});
  return out;
}

std::string text(const std::string& value) { return "X" + le32(value.size()) + value; }

std::string integer(int64_t value) { return "\x8a\x08" + le64(static_cast<uint64_t>(value)); }

std::string tuple(const std::vector<int64_t>& values) {
  std::string out = "(";
  for (const int64_t value : values) out += integer(value);
  return out + "t";
}

std::string global(const std::string& module, const std::string& name) {
  return "c" + module + "\n" + name + "\n";
}

std::string rebuild(const FakeTensor& tensor) {
  return join({global("torch._utils", "_rebuild_tensor_v2"), "((", text("storage"),
               global("torch", tensor.type), tensor.key, text("cuda:0"), integer(tensor.numel),
               "tQ", integer(tensor.offset), tuple(tensor.shape), tuple(tensor.strides), "\x89",
               global("collections", "OrderedDict"), ")RtR"});
}

std::string item(const FakeTensor& tensor) { return text(tensor.name) + rebuild(tensor); }

std::string dict_of(const std::string& items) { return "\x80\x02}(" + items + "u."; }

std::string six_floats() {
  const float values[] = {0, 1, 2, 3, 4, 5};
  return {reinterpret_cast<const char*>(values), sizeof(values)};
}

FakeZip pth_zip(const std::string& pickle, const std::map<std::string, std::string>& storages) {
  FakeZip zip;
  zip.entries.push_back({.name = "archive/data.pkl", .content = pickle});
  for (const auto& [key, content] : storages) {
    zip.entries.push_back({.name = "archive/data/" + key, .content = content});
  }
  zip.entries.push_back({.name = "archive/version", .content = "3\n"});
  return zip;
}

std::string pth(const std::string& pickle, const std::map<std::string, std::string>& storages) {
  return make_zip(pth_zip(pickle, storages));
}

std::string tiny_pth() {
  const FakeTensor bias{.name = "b",
                        .type = "BFloat16Storage",
                        .key = text("1"),
                        .numel = 2,
                        .shape = {2},
                        .strides = {1}};
  return pth(dict_of(item({}) + item(bias)), {{"0", six_floats()}, {"1", "\x80\x3f\x40\x40"}});
}

std::string stored(int64_t numel, const std::string& content) {
  return le64(static_cast<uint64_t>(numel)) + content;
}

std::string legacy(const LegacyParts& parts) {
  return "\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19." + parts.version +
         parts.machine + parts.object + parts.keys + parts.storages;
}

std::string viewed(int64_t offset, int64_t size, int64_t numel) {
  const std::string storage = "(" + text("storage") + global("torch", "FloatStorage") + text("0") +
                              text("cpu") + integer(6) + "(" + text("7") + integer(offset) +
                              integer(size) + "ttQ";
  return text("w") + global("torch._utils", "_rebuild_tensor") + "(" + storage + integer(0) +
         tuple({numel}) + tuple({1}) + "tR";
}

std::string safetensors(const std::string& header, const std::string& data) {
  return le64(header.size()) + header + data;
}

std::string tiny_safetensors() {
  return safetensors(R"({"__metadata__":{"format":"pt"},)"
                     R"("w":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},)"
                     R"("b":{"dtype":"BF16","shape":[2],"data_offsets":[24,28]}} )",
                     six_floats() + "\x80\x3f\x40\x40");
}

TensorFileContents load(const std::string& bytes) {
  TensorFileContents contents = parse_tensor_file(as_bytes(bytes), "test");
  for (const TensorInfo& tensor : contents.tensors) {
    verify_checksum(tensor, "test");
    std::vector<std::byte> copy(static_cast<size_t>(tensor.size_bytes()));
    tensor.copy_row_major(copy);
  }
  return contents;
}

std::string refusal(const std::string& bytes) {
  try {
    load(bytes);
  } catch (const UserError& error) {
    return error.what();
  }
  return "";
}

void expect_refused(const std::vector<Case>& cases) {
  for (const Case& c : cases) {
    SCOPED_TRACE(c.name);
    const std::string message = refusal(c.bytes);
    EXPECT_NE(message.find(c.fragment), std::string::npos)
        << "wanted: " << c.fragment << "\ngot: " << (message.empty() ? "accepted" : message);
    EXPECT_EQ(message.find('\n'), std::string::npos) << "one line only: " << message;
  }
}

std::string repeated(const std::string& part, size_t count) {
  std::string out;
  out.reserve(part.size() * count);
  for (size_t i = 0; i < count; ++i) out += part;
  return out;
}

std::vector<float> floats(const TensorInfo& tensor) {
  std::vector<float> values(static_cast<size_t>(tensor.numel()));
  tensor.copy_row_major(std::as_writable_bytes(std::span(values)));
  return values;
}

ScratchFolder::ScratchFolder() {
  std::string name = (std::filesystem::temp_directory_path() / "rwkv-formats-XXXXXX").string();
  if (::mkdtemp(name.data()) == nullptr) throw std::runtime_error("mkdtemp");
  path_ = name;
}

ScratchFolder::~ScratchFolder() { std::filesystem::remove_all(path_); }

void write_bytes(const std::filesystem::path& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

std::string read_bytes(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

}  // namespace rwkv::formats::testing
