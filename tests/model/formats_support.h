#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "model/formats/tensor_file.h"

// Weight files made byte by byte, apart from our writers, so that each part of them can lie.
namespace rwkv::formats::testing {

struct FakeEntry {
  std::string name = {};
  std::string content = {};
  bool deflate = false;
  bool torch_style = false;  // sizes and CRC in a descriptor behind the data, zeros before it
  uint16_t flags = 0;
  uint16_t disk = 0;
  std::optional<uint16_t> method = {};
  std::optional<uint16_t> local_method = {};
  std::optional<uint32_t> crc32 = {};
  std::optional<uint32_t> size = {};         // of the directory
  std::optional<uint32_t> packed_size = {};  // of the directory
  std::optional<uint32_t> offset = {};       // of the directory
  std::optional<std::string> local_name = {};
  std::string extra = {};  // of the directory
};

struct FakeZip {
  std::vector<FakeEntry> entries;
  bool zip64_end = false;
  std::optional<uint16_t> count = {};
  std::optional<uint32_t> directory_size = {};
  std::optional<uint32_t> directory_offset = {};
  std::optional<uint64_t> zip64_count = {};
  std::optional<uint64_t> zip64_offset = {};
  std::optional<uint64_t> zip64_record_size = {};
  std::optional<uint64_t> locator_offset = {};
  uint16_t disk = 0;
  std::string comment = {};
  std::string gap = {};  // between directory and end record
};

std::string make_zip(const FakeZip& zip);
std::string raw_deflate(const std::string& content);

/// A number as little-endian bytes.
std::string le16(uint64_t value);
std::string le32(uint64_t value);
std::string le64(uint64_t value);

// Pieces of a pickle.
std::string text(const std::string& value);  // X
std::string integer(int64_t value);          // LONG1
std::string tuple(const std::vector<int64_t>& values);
std::string global(const std::string& module, const std::string& name);

/// One tensor as the pickle describes it.
struct FakeTensor {
  std::string name = "w";
  std::string type = "FloatStorage";
  std::string key = text("0");
  int64_t numel = 6;
  int64_t offset = 0;
  std::vector<int64_t> shape = {2, 3};
  std::vector<int64_t> strides = {3, 1};
};
std::string rebuild(const FakeTensor& tensor);  // without its name
std::string item(const FakeTensor& tensor);     // name and tensor
std::string dict_of(const std::string& items);  // a whole pickle

/// Values 0, 1, .. 5 as float32: the storage of FakeTensor's defaults.
std::string six_floats();

/// A zip with this pickle and storages under "archive/".
FakeZip pth_zip(const std::string& pickle,
                const std::map<std::string, std::string>& storages = {{"0", six_floats()}});
/// make_zip(pth_zip(..)).
std::string pth(const std::string& pickle,
                const std::map<std::string, std::string>& storages = {{"0", six_floats()}});
/// A small valid .pth with tensors "w" (f32 [2, 3]) and "b" (bf16 [2]).
std::string tiny_pth();

/// One storage of a legacy .pth behind its number of elements.
std::string stored(int64_t numel, const std::string& content);
/// The parts of a legacy .pth (before PyTorch 1.6); as they stand they make a valid file.
struct LegacyParts {
  std::string version = "\x80\x02M\xe9\x03.";
  std::string machine = "\x80\x02}" + text("little_endian") + "\x88s.";
  std::string object = dict_of(item({}));
  std::string keys = "\x80\x02](" + text("0") + "e.";
  std::string storages = stored(6, six_floats());
};
std::string legacy(const LegacyParts& parts);
/// legacy() with one part changed.
template <typename Change>
std::string changed_legacy(Change change) {
  LegacyParts parts;
  change(parts);
  return legacy(parts);
}
/// A tensor in a view of storage 0: elements [offset, offset + size).
std::string viewed(int64_t offset, int64_t size, int64_t numel = 2);

/// Length, header and data of a .safetensors file.
std::string safetensors(const std::string& header, const std::string& data);
/// A small valid .safetensors with tensors "w" (F32 [2, 3]) and "b" (BF16 [2]).
std::string tiny_safetensors();

/// Parses the bytes, checks every checksum and copies every tensor out.
TensorFileContents load(const std::string& bytes);
/// The message of the UserError that load() throws, or "" when it accepts. Any other exception
/// passes on.
std::string refusal(const std::string& bytes);

/// A malformed file and a part of the message that it must give.
struct Case {
  std::string name;
  std::string bytes;
  std::string fragment;
};

/// Each case is refused by a UserError of one line that holds its fragment.
void expect_refused(const std::vector<Case>& cases);

/// `part` many times.
std::string repeated(const std::string& part, size_t count);

/// Row-major values of a float32 tensor.
std::vector<float> floats(const TensorInfo& tensor);

/// A folder that is removed at the end.
class ScratchFolder {
 public:
  ScratchFolder();
  ScratchFolder(const ScratchFolder&) = delete;
  ScratchFolder& operator=(const ScratchFolder&) = delete;
  ~ScratchFolder();
  [[nodiscard]] std::filesystem::path file(const std::string& name) const { return path_ / name; }

 private:
  std::filesystem::path path_;
};

void write_bytes(const std::filesystem::path& path, const std::string& bytes);
std::string read_bytes(const std::filesystem::path& path);

}  // namespace rwkv::formats::testing
