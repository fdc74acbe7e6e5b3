#include <string>
#include <string_view>
#include <utility>

#include "data/base/error.h"
#include "model/formats/bytes.h"
#include "model/formats/huggingface.h"
#include "model/formats/pth_reader.h"
#include "model/formats/rwkv_cpp.h"
#include "model/formats/safetensors.h"
#include "model/formats/tensor_file.h"
#include "model/formats/tensor_names.h"

namespace rwkv::formats {
namespace {

using std::string_view_literals::operator""sv;

struct Lookalike {
  std::string_view start;
  std::string_view verdict;
};

// What people name by mistake. Checked in this order, before the file is taken for safetensors.
constexpr Lookalike kLookalikes[] = {
    {"version https://git-lfs"sv,
     "is a Git LFS pointer, not the weights; run 'git lfs pull' or download the file itself"},
    {"GGUF"sv, "is a GGUF file; convert from the original .pth or .safetensors"},
    {"lmgg"sv, "is a file of ggml's first days; convert from the original .pth or .safetensors"},
    {"tjgg"sv, "is a file of llama.cpp's first days; convert from the original .pth"},
    {"\x1f\x8b"sv, "is a gzip archive; unpack it first"},
    {"\x28\xb5\x2f\xfd"sv, "is a zstd archive; unpack it first"},
    {"\xfd"
     "7zXZ"sv,
     "is an xz archive; unpack it first"},
    {"7z\xbc\xaf\x27\x1c"sv, "is a 7z archive; unpack it first"},
    {"Rar!"sv, "is a RAR archive; unpack it first"},
    {"\x89HDF"sv, "is an HDF5 file; only .pth and .safetensors can be read"},
    {"\x93NUMPY"sv, "is a NumPy array; only .pth and .safetensors can be read"},
    {"MMIDIDX"sv, "is a token dataset (.idx); name a weight file"},
    {"PK\x05\x06"sv, "is an empty zip archive; fetch or save the file again"},
    {"\x80"sv,
     "is a plain Python pickle, not made by torch.save; only .pth and .safetensors can be read"},
};

std::string_view first_word(std::string_view text) {
  const size_t start = text.find_first_not_of(" \t\r\n");
  return start == std::string_view::npos ? std::string_view() : text.substr(start);
}

std::string_view verdict_of(std::span<const std::byte> bytes) {
  const std::string_view text = as_text(bytes.first(std::min<size_t>(bytes.size(), 512)));
  if (text.empty()) return "is empty; fetch the file again";
  for (const Lookalike& row : kLookalikes) {
    if (text.starts_with(row.start)) return row.verdict;
  }
  if (text.find_first_not_of('\0') == std::string_view::npos) {
    return "begins with zeros only: the copy or download was interrupted; fetch the file again";
  }
  if (text.size() > 262 && text.substr(257, 5) == "ustar") {
    return "is a tar archive (perhaps a .pth of 2016); unpack it, or load it in Python and "
           "torch.save it "
           "again";
  }
  const std::string_view word = first_word(text);
  if (word.starts_with('<')) {
    return "is an HTML or XML page, not weights; the download needs another address or a login";
  }
  if (word.starts_with('{') || word.starts_with('[')) {
    return "is JSON text, not weights; name the .pth or .safetensors file";
  }
  return {};
}

bool has_header_length(std::span<const std::byte> bytes) {
  return bytes.size() >= 8 &&
         load_le<uint64_t>(bytes, 0) <= static_cast<uint64_t>(kMaxSafetensorsHeaderBytes);
}

bool has_header_brace(std::span<const std::byte> bytes) {
  return bytes.size() > 8 && bytes[8] == std::byte{'{'};
}

}  // namespace

TensorFileContents parse_one_container(std::span<const std::byte> bytes,
                                       const std::string& source) {
  const std::string_view text = as_text(bytes);
  if (text.starts_with("PK\x03\x04")) return read_pth(bytes, source);
  if (text.starts_with(kLegacyPthMagic)) return read_legacy_pth(bytes, source);
  // Before all else: its length may begin with any byte, these magics too. With one of the two
  // signs missing the file may still be a damaged one of this kind, but only if it is nothing else.
  const bool has_length = has_header_length(bytes);
  const bool has_brace = has_header_brace(bytes);
  if (has_length && has_brace) return read_safetensors(bytes, source);
  if (text.starts_with(kRwkvCppMagic)) return read_rwkv_cpp(bytes, source);
  if (const std::string_view verdict = verdict_of(bytes); !verdict.empty()) {
    user_error("{} {}", source, verdict);
  }
  if (has_length || has_brace) return read_safetensors(bytes, source);
  user_error(
      "{} is no weight file (.pth, .safetensors or rwkv.cpp): it begins with \"{}\"; check the "
      "path "
      "or fetch the file again",
      source, printable(text.substr(0, 16)));
}

TensorFileContents parse_tensor_file(std::span<const std::byte> bytes, const std::string& source) {
  TensorFileContents contents = parse_one_container(bytes, source);
  use_released_names(contents.tensors, source);
  return contents;
}

TensorFile open_tensor_file(const std::filesystem::path& path) {
  std::error_code ignored;
  if (std::filesystem::is_directory(path, ignored)) return open_huggingface_folder(path);
  MappedFile file(path);
  if (is_shard_index(file.bytes())) return open_sharded(path);
  TensorFileContents contents = parse_tensor_file(file.bytes(), printable(path.string(), 4096));
  std::vector<MappedFile> files;
  files.push_back(std::move(file));
  return {path, std::move(files), std::move(contents)};
}

}  // namespace rwkv::formats
