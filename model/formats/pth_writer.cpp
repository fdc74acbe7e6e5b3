#include "model/formats/pth_writer.h"

#include <array>
#include <limits>
#include <string_view>
#include <utility>
#include <vector>

#include "data/base/atomic_file.h"
#include "data/base/error.h"
#include "model/formats/bytes.h"
#include "model/formats/zip_writer.h"

namespace rwkv::formats {
namespace {

std::string_view storage_type(const TensorSpec& spec) {
  switch (spec.dtype) {
    case DType::f64:
      return "DoubleStorage";
    case DType::f32:
      return "FloatStorage";
    case DType::f16:
      return "HalfStorage";
    case DType::bf16:
      return "BFloat16Storage";
    case DType::i64:
      return "LongStorage";
    case DType::i32:
      return "IntStorage";
    case DType::i16:
      return "ShortStorage";
    case DType::i8:
      return "CharStorage";
    case DType::u8:
      return "ByteStorage";
    case DType::boolean:
      return "BoolStorage";
    default:
      user_error(
          "tensor {}: a .pth file cannot hold {}; convert it to another dtype or write "
          ".safetensors",
          printable(spec.name), dtype_name(spec.dtype));
  }
}

void put_integer(std::string& out, int64_t value) {
  if (value >= 0 && value <= 0xff) {
    out += 'K';
    append_le(out, static_cast<uint8_t>(value));
  } else if (value >= 0 && value <= 0xffff) {
    out += 'M';
    append_le(out, static_cast<uint16_t>(value));
  } else if (std::in_range<int32_t>(value)) {
    out += 'J';
    append_le(out, static_cast<int32_t>(value));
  } else {
    out += "\x8a\x08";
    append_le(out, value);
  }
}

void put_string(std::string& out, std::string_view text) {
  out += 'X';
  append_le(out, static_cast<uint32_t>(text.size()));
  out += text;
}

void put_tuple(std::string& out, std::span<const int64_t> values) {
  out += '(';
  for (const int64_t value : values) put_integer(out, value);
  out += 't';
}

/// name, _rebuild_tensor_v2(storage, 0, size, stride, False, OrderedDict())
void put_tensor(std::string& out, size_t index, const TensorSpec& spec) {
  int64_t numel = 1;
  for (const int64_t size : spec.shape) numel *= size;
  put_string(out, spec.name);
  out += "ctorch._utils\n_rebuild_tensor_v2\n((";
  put_string(out, "storage");
  out += "ctorch\n";
  out += storage_type(spec);
  out += '\n';
  put_string(out, std::to_string(index));
  put_string(out, "cpu");
  put_integer(out, numel);
  out += "tQ";
  put_integer(out, 0);
  put_tuple(out, spec.shape);
  put_tuple(out, contiguous_strides(spec.shape));
  out +=
      "\x89"
      "ccollections\nOrderedDict\n)RtR";
}

}  // namespace

std::string make_state_dict_pickle(std::span<const TensorSpec> specs) {
  std::string out = "\x80\x02}(";
  for (size_t i = 0; i < specs.size(); ++i) put_tensor(out, i, specs[i]);
  return out + "u.";
}

WrittenFile write_pth(const std::filesystem::path& path, std::span<const TensorSpec> specs,
                      const TensorBytes& bytes, uint64_t zip64_from) {
  const std::vector<int64_t> sizes = checked_spec_sizes(specs);
  const std::string pickle = make_state_dict_pickle(specs);
  AtomicFile file(path);
  ZipWriter zip(file, zip64_from);
  zip.add("archive/data.pkl", as_bytes(pickle));
  zip.add("archive/byteorder", as_bytes("little"));
  for (size_t i = 0; i < specs.size(); ++i) {
    zip.add("archive/data/" + std::to_string(i), checked_tensor_bytes(bytes, i, sizes[i]));
  }
  zip.add("archive/version", as_bytes("3\n"));  // Python refuses a file without it
  zip.finish();
  const WrittenFile written{.size_bytes = file.size_bytes(), .crc32c = file.crc32c()};
  file.commit();
  return written;
}

}  // namespace rwkv::formats
