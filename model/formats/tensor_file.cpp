#include "model/formats/tensor_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <set>
#include <stdexcept>
#include <utility>

#include "data/base/checked.h"
#include "data/base/error.h"
#include "model/formats/bytes.h"
#include "model/formats/crc32.h"
#include "model/formats/element_types.h"

namespace rwkv::formats {
namespace {

struct DTypeRow {
  DType dtype;
  int64_t size;
  std::string_view name;
};

constexpr DTypeRow kDTypes[] = {
    {DType::f64, 8, "f64"},      {DType::f32, 4, "f32"},         {DType::f16, 2, "f16"},
    {DType::bf16, 2, "bf16"},    {DType::i64, 8, "i64"},         {DType::i32, 4, "i32"},
    {DType::i16, 2, "i16"},      {DType::i8, 1, "i8"},           {DType::u8, 1, "u8"},
    {DType::boolean, 1, "bool"}, {DType::u64, 8, "u64"},         {DType::u32, 4, "u32"},
    {DType::u16, 2, "u16"},      {DType::f8_e4m3, 1, "f8_e4m3"}, {DType::f8_e5m2, 1, "f8_e5m2"},
};

const DTypeRow& row_of(DType dtype) {
  for (const DTypeRow& row : kDTypes) {
    if (row.dtype == dtype) return row;
  }
  throw std::logic_error("unknown DType");
}

constexpr size_t kPieceBytes = size_t{1} << 20U;  // stays in the cache between two uses

template <typename Take>
void for_each_slice(std::span<const std::byte> bytes, size_t size, Take take) {
  for (size_t at = 0; at < bytes.size(); at += size) {
    take(bytes.subspan(at, std::min(size, bytes.size() - at)));
  }
}

void check_crc32(uint32_t found, const TensorInfo& tensor, const std::string& source) {
  if (found == *tensor.storage_crc32) return;
  user_error(
      "{}: the data of tensor {} has CRC-32 {:08x} where the file says {:08x}: it is damaged; "
      "fetch it again",
      source, printable(tensor.name), found, *tensor.storage_crc32);
}

}  // namespace

int64_t item_size(DType dtype) { return row_of(dtype).size; }

std::string_view dtype_name(DType dtype) { return row_of(dtype).name; }

std::optional<int64_t> byte_size(DType dtype, std::span<const int64_t> shape) {
  std::optional<int64_t> bytes = item_size(dtype);
  bool is_empty = false;
  for (const int64_t size : shape) {
    if (size < 0) return std::nullopt;
    // A 0 must not hide an overflow of the others, which strides are computed from.
    if (size == 0) is_empty = true;
    bytes = checked_mul(*bytes, size == 0 ? 1 : size);
    if (!bytes) return std::nullopt;
  }
  return is_empty ? 0 : bytes;
}

std::vector<int64_t> contiguous_strides(std::span<const int64_t> shape) {
  std::vector<int64_t> strides(shape.size(), 1);
  for (size_t i = shape.size(); i-- > 1;) {
    strides[i - 1] = strides[i] * (shape[i] > 0 ? shape[i] : 1);
  }
  return strides;
}

int64_t TensorInfo::numel() const {
  int64_t count = 1;
  for (const int64_t size : shape) count *= size;
  return count;
}

bool TensorInfo::is_contiguous() const {
  int64_t expected = 1;
  for (size_t i = shape.size(); i-- > 0;) {
    if (shape[i] == 0) return true;
    if (shape[i] != 1 && strides[i] != expected) return false;
    expected *= shape[i];
  }
  return true;
}

std::span<const std::byte> TensorInfo::contiguous_bytes() const {
  if (!is_contiguous()) throw std::logic_error("contiguous_bytes() of the strided tensor " + name);
  if (numel() == 0) return {};
  return storage.subspan(static_cast<size_t>(storage_offset * item_size(dtype)),
                         static_cast<size_t>(size_bytes()));
}

void TensorInfo::copy_row_major(std::span<std::byte> out) const {
  if (out.size() != static_cast<size_t>(size_bytes())) {
    throw std::logic_error(fmt::format("copy_row_major of {}: buffer of {} bytes for {}", name,
                                       out.size(), size_bytes()));
  }
  if (out.empty()) return;
  if (is_contiguous()) {
    std::memcpy(out.data(), contiguous_bytes().data(), out.size());
    return;
  }
  const auto item = static_cast<size_t>(item_size(dtype));
  std::vector<int64_t> position(shape.size(), 0);
  int64_t element = storage_offset;
  for (size_t done = 0; done < out.size(); done += item) {
    std::memcpy(out.data() + done, storage.data() + static_cast<size_t>(element) * item, item);
    // Count up like an odometer, last dimension fastest.
    for (size_t d = shape.size(); d-- > 0;) {
      if (shape[d] == 1) continue;  // its stride may be any number
      element += strides[d];
      if (++position[d] < shape[d]) break;
      element -= strides[d] * shape[d];
      position[d] = 0;
    }
  }
}

TensorFile::TensorFile(std::filesystem::path path, std::vector<MappedFile> files,
                       TensorFileContents contents)
    : path_(std::move(path)), files_(std::move(files)), contents_(std::move(contents)) {
  for (size_t i = 0; i < contents_.tensors.size(); ++i) index_[contents_.tensors[i].name] = i;
}

const TensorInfo* TensorFile::find(std::string_view name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : &contents_.tensors[found->second];
}

void verify_checksum(const TensorInfo& tensor, const std::string& source) {
  if (tensor.storage_crc32) check_crc32(crc32(tensor.storage), tensor, source);
}

std::string TensorFile::name() const { return printable(path_.string(), 4096); }

void TensorFile::verify(const TensorInfo& tensor) const {
  if (!tensor.storage_crc32 || verified_.contains(tensor.storage.data())) return;
  uint32_t crc = 0;
  for_each_slice(tensor.storage, kPieceBytes, [&](std::span<const std::byte> slice) {
    crc = crc32(slice, crc);
    release(slice);
  });
  check_crc32(crc, tensor, name());
  verified_.insert(tensor.storage.data());
}

/// Hands out the elements in row-major order, in their stored type.
void TensorFile::walk(const TensorInfo& tensor, const Piece& piece) const {
  const bool whole = tensor.is_contiguous() && tensor.storage_offset == 0 &&
                     static_cast<size_t>(tensor.size_bytes()) == tensor.storage.size();
  if (!whole) verify(tensor);
  if (!tensor.is_contiguous()) {
    const auto size = static_cast<size_t>(tensor.size_bytes());
    const auto copy = std::make_unique_for_overwrite<std::byte[]>(size);
    tensor.copy_row_major({copy.get(), size});
    release(tensor.storage);
    return for_each_slice({copy.get(), size}, kPieceBytes, piece);
  }
  // The checksum is computed while the bytes are in the cache anyway.
  const bool check = whole && tensor.storage_crc32 && !verified_.contains(tensor.storage.data());
  uint32_t crc = 0;
  for_each_slice(tensor.contiguous_bytes(), kPieceBytes, [&](std::span<const std::byte> slice) {
    if (check) crc = crc32(slice, crc);
    piece(slice);
    release(slice);
  });
  if (!check) return;
  check_crc32(crc, tensor, name());
  verified_.insert(tensor.storage.data());
}

int64_t TensorFile::read(const TensorInfo& tensor, DType dtype, std::span<std::byte> out) const {
  const auto item = static_cast<size_t>(item_size(tensor.dtype));
  const auto out_item = static_cast<size_t>(item_size(dtype));
  if (out.size() != static_cast<size_t>(tensor.numel()) * out_item) {
    throw std::logic_error(fmt::format("read of {}: buffer of {} bytes for {} elements of {}",
                                       tensor.name, out.size(), tensor.numel(), out_item));
  }
  if (dtype != tensor.dtype && !is_number(tensor.dtype)) {
    user_error("{}: {} is stored as {}, which cannot be converted; save it as fp32, fp16 or bf16",
               name(), printable(tensor.name), dtype_name(tensor.dtype));
  }
  int64_t overflows = 0;
  walk(tensor, [&](std::span<const std::byte> piece) {
    const size_t size = piece.size() / item * out_item;
    overflows += convert_elements(piece, tensor.dtype, out.first(size), dtype);
    out = out.subspan(size);
  });
  return overflows;
}

void TensorFile::read_pieces(const TensorInfo& tensor,
                             const std::function<void(std::span<const float>)>& take) const {
  if (!is_number(tensor.dtype)) {
    user_error("{}: {} is stored as {}, which cannot be converted; save it as fp32, fp16 or bf16",
               name(), printable(tensor.name), dtype_name(tensor.dtype));
  }
  std::vector<float> values;
  walk(tensor, [&](std::span<const std::byte> piece) {
    values.resize(piece.size() / static_cast<size_t>(item_size(tensor.dtype)));
    convert_elements(piece, tensor.dtype, std::as_writable_bytes(std::span(values)), DType::f32);
    take(values);
  });
}

void TensorFile::release(std::span<const std::byte> range) const {
  for (const MappedFile& file : files_) file.release(range);
}

void TensorFile::check_unchanged() const {
  for (const MappedFile& file : files_) file.check_unchanged();
}

std::vector<int64_t> checked_spec_sizes(std::span<const TensorSpec> specs) {
  std::vector<int64_t> sizes;
  std::set<std::string_view> names;
  for (const TensorSpec& spec : specs) {
    const std::optional<int64_t> size = byte_size(spec.dtype, spec.shape);
    if (!size) throw std::logic_error("shape of tensor " + spec.name + " overflows");
    if (!is_utf8(spec.name)) throw std::logic_error("a tensor's name is no UTF-8");
    if (!names.insert(spec.name).second) throw std::logic_error("two tensors named " + spec.name);
    sizes.push_back(*size);
  }
  return sizes;
}

std::span<const std::byte> checked_tensor_bytes(const TensorBytes& bytes, size_t index,
                                                int64_t expected) {
  const std::span<const std::byte> data = bytes(index);
  if (data.size() != static_cast<size_t>(expected)) {
    throw std::logic_error(
        fmt::format("tensor {} has {} bytes, its shape says {}", index, data.size(), expected));
  }
  return data;
}

}  // namespace rwkv::formats
