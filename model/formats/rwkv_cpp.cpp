#include "model/formats/rwkv_cpp.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <set>
#include <utility>
#include <vector>

#include "data/base/atomic_file.h"
#include "data/base/checked.h"
#include "data/base/error.h"
#include "model/formats/bytes.h"
#include "model/formats/tensor_names.h"

namespace rwkv::formats {
namespace {

constexpr int32_t kOldVersion = 100;
constexpr int32_t kVersion = 101;
constexpr int32_t kMaxRank = 3;
constexpr int32_t kFloat = 0;
constexpr int32_t kHalf = 1;
constexpr std::string_view kDecay = ".time_decay";

std::string_view quantised_name(int32_t type) {
  switch (type) {
    case 2:
      return "Q4_0";
    case 3:
      return "Q4_1";
    case 4:
      return "Q4_1_O";
    case 5:
      return "Q4_2";
    case 6:
      return "Q4_3";
    case 7:
      return "Q5_0";
    case 8:
      return "Q5_1";
    case 9:
      return "Q8_0";
    default:
      return "";
  }
}

class RwkvCppReader {
 public:
  RwkvCppReader(std::span<const std::byte> bytes, const std::string& source)
      : bytes_(bytes), source_(source) {}

  TensorFileContents run();

 private:
  void read_header();
  void read_tensor();
  void check_architecture(std::string_view name) const;
  void check_header() const;
  void restore_decay(TensorInfo& tensor);
  DType dtype_of(int32_t type, std::string_view what) const;
  std::span<const std::byte> take(uint64_t count, std::string_view what);
  int32_t take_i32(std::string_view what) { return load_le<int32_t>(take(4, what), 0); }

  template <typename... Args>
  [[noreturn]] void fail(fmt::format_string<Args...> format, Args&&... args) const {
    user_error("{}: rwkv.cpp file: {}; fetch the file again, or convert from the original .pth",
               source_, fmt::format(format, std::forward<Args>(args)...));
  }

  std::span<const std::byte> bytes_;
  const std::string& source_;
  size_t at_ = 0;
  int32_t n_vocab_ = 0;
  int32_t n_embed_ = 0;
  int32_t n_layer_ = 0;
  std::set<std::string, std::less<>> names_;
  TensorFileContents out_;
};

TensorFileContents RwkvCppReader::run() {
  out_.kind = "rwkv.cpp";
  read_header();
  while (at_ < bytes_.size()) read_tensor();
  if (out_.tensors.empty()) fail("it holds no tensors");
  check_header();
  return std::move(out_);
}

std::span<const std::byte> RwkvCppReader::take(uint64_t count, std::string_view what) {
  if (count > bytes_.size() - at_) {
    fail("{} needs {} bytes at byte {} where {} are left (cut short)", what, count, at_,
         bytes_.size() - at_);
  }
  const auto taken = bytes_.subspan(at_, static_cast<size_t>(count));
  at_ += taken.size();
  return taken;
}

DType RwkvCppReader::dtype_of(int32_t type, std::string_view what) const {
  if (type == kFloat) return DType::f32;
  if (type == kHalf) return DType::f16;
  if (const std::string_view name = quantised_name(type); !name.empty()) {
    user_error(
        "{}: {} is quantised ({}), from which the weights cannot be had back; name the fp32 or "
        "fp16 "
        "file that it was made from",
        source_, printable(what), name);
  }
  fail("{} has the unknown type {}", printable(what), type);
}

void RwkvCppReader::read_header() {
  take(kRwkvCppMagic.size(), "the header");
  const int32_t version = take_i32("the header");
  if (version != kOldVersion && version != kVersion) {
    fail("its version is {}, known are {} and {}", version, kOldVersion, kVersion);
  }
  n_vocab_ = take_i32("the header");
  n_embed_ = take_i32("the header");
  n_layer_ = take_i32("the header");
  dtype_of(take_i32("the header"), "the model");
}

void RwkvCppReader::read_tensor() {
  const size_t begin = at_;
  const int32_t rank = take_i32("a tensor");
  const int32_t name_bytes = take_i32("a tensor");
  const int32_t type = take_i32("a tensor");
  if (rank < 1 || rank > kMaxRank) fail("a tensor of {} dimensions at byte {}", rank, begin);
  if (name_bytes < 1) fail("a name of {} bytes at byte {}", name_bytes, begin);
  TensorInfo tensor;
  for (int32_t i = 0; i < rank; ++i) tensor.shape.push_back(take_i32("a tensor's sizes"));
  std::reverse(tensor.shape.begin(), tensor.shape.end());
  tensor.name = as_text(take(static_cast<uint64_t>(name_bytes), "a tensor's name"));
  const std::string name = printable(tensor.name);
  if (!is_utf8(tensor.name)) fail("the name \"{}\" is no UTF-8", name);
  if (!names_.insert(tensor.name).second) fail("two tensors named {}", name);
  check_architecture(tensor.name);
  tensor.dtype = dtype_of(type, tensor.name);
  const auto size = byte_size(tensor.dtype, tensor.shape);
  if (!size || *size == 0) fail("{} has impossible sizes", name);
  tensor.strides = contiguous_strides(tensor.shape);
  tensor.storage = take(static_cast<uint64_t>(*size), name);
  if (tensor.name.ends_with(kDecay)) restore_decay(tensor);
  out_.tensors.push_back(std::move(tensor));
}

void RwkvCppReader::check_architecture(std::string_view name) const {
  for (const auto& [part, version] :
       {std::pair{".att.r_k", "7"}, std::pair{".time_maa", "6"}, std::pair{".att.ln_x.", "5"}}) {
    if (name.find(part) == std::string_view::npos) continue;
    user_error(
        "{}: holds an RWKV-{} model; of rwkv.cpp's files only RWKV-4 is read, convert from the "
        "original .pth",
        source_, version);
  }
}

/// Stored is -exp(time_decay).
void RwkvCppReader::restore_decay(TensorInfo& tensor) {
  if (tensor.dtype != DType::f32) fail("{} is not fp32", printable(tensor.name));
  std::vector<float> values(tensor.storage.size() / sizeof(float));
  std::memcpy(values.data(), tensor.storage.data(), tensor.storage.size());
  for (float& value : values) {
    if (!(value <= 0) || std::isinf(value)) {
      fail("{} holds {}, which is no decay (-exp of a number)", printable(tensor.name), value);
    }
    // -104: the largest whole number whose exp is 0 in fp32.
    value = value == 0 ? -104.0F : static_cast<float>(std::log(-static_cast<double>(value)));
  }
  out_.buffers.push_back(std::make_unique_for_overwrite<std::byte[]>(tensor.storage.size()));
  std::memcpy(out_.buffers.back().get(), values.data(), tensor.storage.size());
  tensor.storage = {out_.buffers.back().get(), tensor.storage.size()};
}

void RwkvCppReader::check_header() const {
  int64_t layers = 0;
  for (const TensorInfo& tensor : out_.tensors) {
    layers = std::max(layers, block_of(tensor.name) + 1);
    if (tensor.name != "emb.weight") continue;
    if (tensor.shape != std::vector<int64_t>{n_vocab_, n_embed_}) {
      fail("its header says n_vocab {}, n_embed {}, but emb.weight is [{}, {}]", n_vocab_, n_embed_,
           tensor.shape.front(), tensor.shape.back());
    }
  }
  if (layers != n_layer_) fail("its header says n_layer {}, its tensors {}", n_layer_, layers);
}

int32_t narrow(int64_t value, std::string_view what) {
  const auto narrowed = checked_narrow<int32_t>(value);
  if (!narrowed) user_error("rwkv.cpp files cannot hold {} of {}", printable(what), value);
  return *narrowed;
}

int32_t type_number(DType dtype) {
  if (dtype == DType::f32) return kFloat;
  if (dtype == DType::f16) return kHalf;
  throw std::logic_error("rwkv.cpp files hold fp32 and fp16 only");
}

std::string tensor_header(const TensorSpec& spec) {
  std::string out;
  append_le(out, static_cast<int32_t>(spec.shape.size()));
  append_le(out, narrow(static_cast<int64_t>(spec.name.size()), "a name"));
  append_le(out, type_number(spec.dtype));
  for (auto size = spec.shape.rbegin(); size != spec.shape.rend(); ++size) {
    append_le(out, narrow(*size, spec.name));
  }
  return out + spec.name;
}

}  // namespace

TensorFileContents read_rwkv_cpp(std::span<const std::byte> bytes, const std::string& source) {
  return RwkvCppReader(bytes, source).run();
}

std::vector<int64_t> rwkv_cpp_shape(std::string_view name, const std::vector<int64_t>& shape) {
  std::vector<int64_t> stored = shape;
  if (name.find(".time_") != std::string_view::npos) std::erase(stored, 1);
  if (stored.empty()) stored.push_back(1);
  return stored;
}

DType rwkv_cpp_dtype(std::string_view name, const std::vector<int64_t>& stored_shape, DType dtype) {
  const bool vector = stored_shape.size() == 1 || name.find(".time_") != std::string_view::npos;
  return vector ? DType::f32 : dtype;
}

void to_rwkv_cpp_decay(std::span<float> values) {
  for (float& value : values) value = static_cast<float>(-std::exp(static_cast<double>(value)));
}

WrittenFile write_rwkv_cpp(const std::filesystem::path& path, const RwkvCppHeader& header,
                           std::span<const TensorSpec> specs, const TensorBytes& bytes) {
  const std::vector<int64_t> sizes = checked_spec_sizes(specs);
  std::string head(kRwkvCppMagic);
  append_le(head, kVersion);
  append_le(head, narrow(header.vocab_size, "a vocabulary"));
  append_le(head, narrow(header.n_embd, "a width"));
  append_le(head, narrow(header.n_layer, "a number of layers"));
  append_le(head, type_number(header.dtype));
  AtomicFile file(path);
  file.write(head);
  for (size_t i = 0; i < specs.size(); ++i) {
    file.write(tensor_header(specs[i]));
    file.write(checked_tensor_bytes(bytes, i, sizes[i]));
  }
  const WrittenFile written{.size_bytes = file.size_bytes(), .crc32c = file.crc32c()};
  file.commit();
  return written;
}

}  // namespace rwkv::formats
