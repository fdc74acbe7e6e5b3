#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "data/base/mapped_file.h"

namespace rwkv::formats {

/// Element types that occur in weight files.
enum class DType : uint8_t {
  f64,
  f32,
  f16,
  bf16,
  i64,
  i32,
  i16,
  i8,
  u8,
  boolean,
  u64,
  u32,
  u16,
  f8_e4m3,
  f8_e5m2,
};

/// Bytes of one element.
int64_t item_size(DType dtype);

/// Short name for messages and tables: "bf16", "i64", "bool".
std::string_view dtype_name(DType dtype);

/// Product of `shape` times the item size; nothing when a size is negative or the product (of the
/// sizes other than 0) does not fit.
std::optional<int64_t> byte_size(DType dtype, std::span<const int64_t> shape);

/// Row-major strides in elements, as PyTorch computes them (a size of 0 counts as 1).
std::vector<int64_t> contiguous_strides(std::span<const int64_t> shape);

/// One tensor of a file. `storage` is a view into the mapped file (or into a buffer that the
/// TensorFile owns) and lives as long as the TensorFile. Readers have checked that every element
/// lies inside it. Its address need not be aligned to the item size: copy with memcpy or
/// copy_row_major().
struct TensorInfo {
  std::string name;
  DType dtype = DType::f32;
  std::vector<int64_t> shape;
  std::vector<int64_t> strides;  // in elements
  int64_t storage_offset = 0;    // in elements
  std::span<const std::byte> storage;
  std::optional<uint32_t>
      storage_crc32;  // of `storage`, where the container has one still to be checked

  [[nodiscard]] int64_t numel() const;
  [[nodiscard]] int64_t size_bytes() const { return numel() * item_size(dtype); }
  [[nodiscard]] bool is_contiguous() const;
  /// The elements in row-major order without a copy. Throws std::logic_error unless
  /// is_contiguous().
  [[nodiscard]] std::span<const std::byte> contiguous_bytes() const;
  /// Writes the elements in row-major order to `out`, which must hold exactly size_bytes().
  void copy_row_major(std::span<std::byte> out) const;
};

/// Reads the tensor's storage and compares it with the checksum of the container, where there is
/// one. Throws UserError on a mismatch; `source` names the file.
void verify_checksum(const TensorInfo& tensor, const std::string& source);

/// What a parser found in the bytes of a file.
struct TensorFileContents {
  std::string kind;  // "pth", "legacy pth", "safetensors", "rwkv.cpp"
  std::vector<TensorInfo> tensors;
  /// safetensors: its __metadata__. pth: scalar entries beside the tensors (step, epoch) as text.
  std::map<std::string, std::string> metadata;
  std::vector<std::string> warnings;
  /// Inflated or computed storages that `tensors` view.
  std::vector<std::unique_ptr<std::byte[]>> buffers;
};

/// Weights on disk, mapped and checked; no tensor has been copied. Mostly one file; several where
/// the weights are sharded. Move-only. Not for use by several threads at once.
class TensorFile {
 public:
  /// `path` is what the user named; `contents` views `files`.
  TensorFile(std::filesystem::path path, std::vector<MappedFile> files,
             TensorFileContents contents);

  [[nodiscard]] const std::vector<TensorInfo>& tensors() const { return contents_.tensors; }
  /// The tensor of that name, or nullptr.
  [[nodiscard]] const TensorInfo* find(std::string_view name) const;
  [[nodiscard]] const std::string& kind() const { return contents_.kind; }
  [[nodiscard]] const std::map<std::string, std::string>& metadata() const {
    return contents_.metadata;
  }
  /// Things a user should know though the file is usable, one line each.
  [[nodiscard]] const std::vector<std::string>& warnings() const { return contents_.warnings; }
  [[nodiscard]] const std::filesystem::path& path() const { return path_; }
  /// The path as it may stand in a message.
  [[nodiscard]] std::string name() const;
  [[nodiscard]] const std::vector<MappedFile>& files() const { return files_; }

  /// Writes the elements in row-major order to `out`, as `dtype`: the stored one, fp32, fp16 or
  /// bf16 (see convert_elements). Compares the storage with its checksum, where the container has
  /// one, and gives the memory of the map back behind itself, so reading a file larger than memory
  /// tensor by tensor needs no more than `out`. Returns how many numbers became infinite. Throws
  /// UserError when the data is damaged (`out` is then unspecified) or of a type that holds no
  /// numbers.
  int64_t read(const TensorInfo& tensor, DType dtype, std::span<std::byte> out) const;
  /// The same in pieces, as fp32.
  void read_pieces(const TensorInfo& tensor,
                   const std::function<void(std::span<const float>)>& take) const;
  /// Compares the tensor's storage with its checksum. Throws UserError on a mismatch. Opening does
  /// not do this, since it reads the whole file.
  void verify(const TensorInfo& tensor) const;
  /// Throws UserError when a file on disk is no longer the one that was opened.
  void check_unchanged() const;

 private:
  using Piece = std::function<void(std::span<const std::byte>)>;
  void walk(const TensorInfo& tensor, const Piece& piece) const;
  void release(std::span<const std::byte> range) const;

  std::filesystem::path path_;
  std::vector<MappedFile> files_;
  TensorFileContents contents_;
  std::map<std::string, size_t, std::less<>> index_;
  mutable std::set<const std::byte*> verified_;  // storages, which tensors may share
};

/// Opens weights of any format that can be read, told apart by content and not by name:
///   .pth       torch.save's zip archive, and its legacy format from before PyTorch 1.6
///   .safetensors, and an index file (model.safetensors.index.json) with its shards
///   a folder   in Hugging Face's layout (config.json, model.safetensors or pytorch_model.bin or
///              their shards); its config.json must agree with the tensors
///   rwkv.cpp   RWKV-4 in fp32 or fp16
/// Names are BlinkDL's whatever the file says: those of transformers are translated, prefixes such
/// as "module." dropped. Throws UserError when it is none of these (saying what it looks like) or
/// is damaged.
TensorFile open_tensor_file(const std::filesystem::path& path);

/// The same for one file's bytes in memory; `source` names them in messages. The result views
/// `bytes`.
TensorFileContents parse_tensor_file(std::span<const std::byte> bytes, const std::string& source);

/// Like parse_tensor_file, but with the names that the file has.
TensorFileContents parse_one_container(std::span<const std::byte> bytes, const std::string& source);

/// What a writer is told of one tensor: it will be stored row-major and contiguous.
struct TensorSpec {
  std::string name;
  DType dtype = DType::f32;
  std::vector<int64_t> shape;
};

/// Gives the row-major bytes of tensor `index` of the list of specs; called once for each, in the
/// order of the file. The span must stay valid until the next call: at most one tensor is held at a
/// time.
using TensorBytes = std::function<std::span<const std::byte>(size_t index)>;

/// Size and CRC-32C of a file that was written.
struct WrittenFile {
  int64_t size_bytes = 0;
  uint32_t crc32c = 0;
};

/// Sizes in bytes of `specs`. Throws std::logic_error on a duplicate name, a name that is no UTF-8,
/// or a shape that overflows.
std::vector<int64_t> checked_spec_sizes(std::span<const TensorSpec> specs);

/// bytes(index), which must have `expected` bytes (std::logic_error otherwise).
std::span<const std::byte> checked_tensor_bytes(const TensorBytes& bytes, size_t index,
                                                int64_t expected);

}  // namespace rwkv::formats
