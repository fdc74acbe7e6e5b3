#include "model/formats/safetensors.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <numeric>
#include <optional>
#include <set>
#include <stdexcept>
#include <string_view>
#include <utility>
#include <vector>

#include "data/base/atomic_file.h"
#include "data/base/checked.h"
#include "data/base/error.h"
#include "model/formats/bytes.h"

namespace rwkv::formats {
namespace {

using json = nlohmann::json;

constexpr size_t kLengthBytes = 8;
constexpr size_t kDataAlignment = 64;
constexpr size_t kMaxRank = 64;
constexpr std::string_view kMetadataKey = "__metadata__";

struct Code {
  std::string_view code;
  DType dtype;
};

// In the reference's order: its writer puts the last of these first.
constexpr Code kCodes[] = {
    {"BOOL", DType::boolean},    {"U8", DType::u8},           {"I8", DType::i8},
    {"F8_E5M2", DType::f8_e5m2}, {"F8_E4M3", DType::f8_e4m3}, {"I16", DType::i16},
    {"U16", DType::u16},         {"F16", DType::f16},         {"BF16", DType::bf16},
    {"I32", DType::i32},         {"U32", DType::u32},         {"F32", DType::f32},
    {"F64", DType::f64},         {"I64", DType::i64},         {"U64", DType::u64},
};

/// One tensor as the header describes it.
struct HeaderEntry {
  std::string name;
  std::optional<DType> dtype;
  std::optional<std::vector<int64_t>> shape;
  std::optional<std::vector<int64_t>> data_offsets;
};

/// Takes the header's JSON event by event and accepts its one layout only, so depth and repeated
/// keys need no further care: { name: {"dtype": text, "shape": [n..], "data_offsets": [n, n]}..,
/// "__metadata__": {text: text..} }
class HeaderHandler : public nlohmann::json_sax<json> {
 public:
  explicit HeaderHandler(const std::string& source) : source_(source) {}

  std::vector<HeaderEntry> entries;
  std::map<std::string, std::string> metadata;

  bool null() override { return refuse("null"); }
  bool boolean(bool /*value*/) override { return refuse("true or false"); }
  bool number_integer(json::number_integer_t /*value*/) override {
    return refuse("a negative number");
  }
  bool number_float(json::number_float_t /*value*/, const std::string& text) override {
    return refuse("the number " + text);
  }
  bool binary(json::binary_t& /*value*/) override { return refuse("binary data"); }
  bool number_unsigned(json::number_unsigned_t value) override;
  bool string(std::string& value) override;
  bool start_object(size_t count) override;
  bool key(std::string& name) override;
  bool end_object() override;
  bool start_array(size_t count) override;
  bool end_array() override;
  bool parse_error(size_t position, const std::string& token,
                   const json::exception& error) override;

 private:
  enum class Place : uint8_t { outside, root, tensor, numbers, metadata };

  void key_of_root(const std::string& name);
  [[noreturn]] bool refuse(const std::string& what) const {
    user_error(
        "{}: safetensors header: {} where it cannot be (near {}); fetch or save the file again",
        source_, what, near_.empty() ? "the beginning" : printable(near_));
  }

  const std::string& source_;
  Place place_ = Place::outside;
  std::set<std::string> names_;
  std::set<std::string> fields_;  // of the present tensor
  std::string near_;              // the present tensor, for messages
  std::string field_;
  std::vector<int64_t> numbers_;
};

bool HeaderHandler::start_object(size_t /*count*/) {
  if (place_ == Place::outside) {
    place_ = Place::root;
  } else if (place_ == Place::root) {
    place_ = near_ == kMetadataKey ? Place::metadata : Place::tensor;
    fields_.clear();
    if (place_ == Place::tensor)
      entries.push_back({.name = near_, .dtype = {}, .shape = {}, .data_offsets = {}});
  } else {
    refuse("an object");
  }
  return true;
}

bool HeaderHandler::key(std::string& name) {
  if (place_ == Place::root) {
    near_ = name;
    if (!names_.insert(name).second) refuse("a repeated name");
  } else {
    field_ = name;
    if (!fields_.insert(name).second) refuse("a repeated key \"" + printable(name) + "\"");
    const bool known = name == "dtype" || name == "shape" || name == "data_offsets";
    if (place_ == Place::tensor && !known) refuse("the unknown key \"" + printable(name) + "\"");
  }
  return true;
}

bool HeaderHandler::string(std::string& value) {
  if (place_ == Place::metadata) {
    metadata[field_] = value;
    return true;
  }
  if (place_ != Place::tensor || field_ != "dtype") refuse("a string");
  for (const Code& row : kCodes) {
    if (row.code == value) entries.back().dtype = row.dtype;
  }
  if (!entries.back().dtype) refuse("the unknown dtype \"" + printable(value) + "\"");
  return true;
}

bool HeaderHandler::start_array(size_t /*count*/) {
  if (place_ != Place::tensor || (field_ != "shape" && field_ != "data_offsets"))
    refuse("an array");
  place_ = Place::numbers;
  numbers_.clear();
  return true;
}

bool HeaderHandler::number_unsigned(json::number_unsigned_t value) {
  const auto number = checked_narrow<int64_t>(value);
  if (place_ != Place::numbers || !number) refuse(fmt::format("the number {}", value));
  if (numbers_.size() >= kMaxRank) refuse("a list of more than 64 numbers");
  numbers_.push_back(*number);
  return true;
}

bool HeaderHandler::end_array() {
  (field_ == "shape" ? entries.back().shape : entries.back().data_offsets) = numbers_;
  place_ = Place::tensor;
  return true;
}

bool HeaderHandler::end_object() {
  if (place_ == Place::tensor) {
    const HeaderEntry& entry = entries.back();
    if (!entry.dtype || !entry.shape || !entry.data_offsets) {
      refuse("a tensor without dtype, shape or data_offsets");
    }
    if (entry.data_offsets->size() != 2) refuse("data_offsets of other than two numbers");
  }
  place_ = place_ == Place::root ? Place::outside : Place::root;
  return true;
}

bool HeaderHandler::parse_error(size_t position, const std::string& token,
                                const json::exception& /*error*/) {
  user_error(
      "{}: safetensors header: no valid JSON at its byte {} (\"{}\"); fetch or save the file again",
      source_, position, printable(token.substr(token.size() > 40 ? token.size() - 40 : 0)));
}

std::span<const std::byte> header_of(std::span<const std::byte> bytes, const std::string& source) {
  if (bytes.size() < kLengthBytes) {
    user_error("{}: {} bytes are no safetensors file; fetch it again", source, bytes.size());
  }
  const auto length = load_le<uint64_t>(bytes, 0);
  if (length > static_cast<uint64_t>(kMaxSafetensorsHeaderBytes)) {
    user_error(
        "{}: a safetensors header of {} bytes, at most {} are allowed; the file is damaged, fetch "
        "it "
        "again",
        source, length, kMaxSafetensorsHeaderBytes);
  }
  if (length > bytes.size() - kLengthBytes) {
    user_error(
        "{}: a safetensors header of {} bytes in a file of {}: the copy or download was cut short, "
        "fetch "
        "it again",
        source, length, bytes.size());
  }
  const auto header = bytes.subspan(kLengthBytes, length);
  if (header.empty() || header[0] != std::byte{'{'}) {
    user_error("{}: its safetensors header does not begin with '{{'; fetch or save the file again",
               source);
  }
  if (as_text(header).find('\0') !=
      std::string_view::npos) {  // which the JSON parser takes for the end
    user_error("{}: its safetensors header holds a zero byte; fetch or save the file again",
               source);
  }
  return header;
}

/// `entry` as a view into `data`, beginning at `expected_begin`, where the previous one ended.
TensorInfo make_tensor(HeaderEntry entry, std::span<const std::byte> data, int64_t expected_begin,
                       const std::string& source) {
  const int64_t begin = (*entry.data_offsets)[0];
  const int64_t end = (*entry.data_offsets)[1];
  const std::string name = printable(entry.name);
  if (begin != expected_begin || end < begin) {
    user_error(
        "{}: tensor {} lies at bytes {} to {} of the data where it should begin at {} (gap or "
        "overlap); save "
        "the file again",
        source, name, begin, end, expected_begin);
  }
  const auto size = byte_size(*entry.dtype, *entry.shape);
  if (size != end - begin) {
    user_error("{}: tensor {} has {} bytes, which is not shape [{}] of {}; save the file again",
               source, name, end - begin, fmt::join(*entry.shape, ", "), dtype_name(*entry.dtype));
  }
  if (static_cast<uint64_t>(end) > data.size()) {
    user_error(
        "{}: tensor {} ends at byte {} of the data, which has {}: the copy or download was cut "
        "short, "
        "fetch it again",
        source, name, end, data.size());
  }
  TensorInfo tensor{.name = std::move(entry.name),
                    .dtype = *entry.dtype,
                    .shape = std::move(*entry.shape),
                    .strides = {},
                    .storage_offset = 0,
                    .storage = data.subspan(static_cast<size_t>(begin), static_cast<size_t>(*size)),
                    .storage_crc32 = {}};
  tensor.strides = contiguous_strides(tensor.shape);
  return tensor;
}

}  // namespace

TensorFileContents read_safetensors(std::span<const std::byte> bytes, const std::string& source) {
  const auto header = header_of(bytes, source);
  const auto data = bytes.subspan(kLengthBytes + header.size());
  HeaderHandler handler(source);
  const std::string_view text = as_text(header);
  json::sax_parse(text.begin(), text.end(), &handler);

  std::vector<HeaderEntry>& entries = handler.entries;
  std::sort(entries.begin(), entries.end(), [](const HeaderEntry& a, const HeaderEntry& b) {
    return std::tie(*a.data_offsets, a.name) < std::tie(*b.data_offsets, b.name);
  });
  TensorFileContents out;
  out.kind = "safetensors";
  out.metadata = std::move(handler.metadata);
  int64_t end = 0;
  for (HeaderEntry& entry : entries) {
    out.tensors.push_back(make_tensor(std::move(entry), data, end, source));
    end += static_cast<int64_t>(out.tensors.back().storage.size());
  }
  if (static_cast<uint64_t>(end) != data.size()) {
    user_error("{}: {} bytes follow the last tensor; fetch or save the file again", source,
               data.size() - static_cast<uint64_t>(end));
  }
  return out;
}

namespace {

size_t rank_of(DType dtype) {
  const auto* found = std::find_if(std::begin(kCodes), std::end(kCodes),
                                   [&](const Code& row) { return row.dtype == dtype; });
  return static_cast<size_t>(found - std::begin(kCodes));
}

std::vector<size_t> reference_order(std::span<const TensorSpec> specs) {
  std::vector<size_t> order(specs.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    const size_t rank_a = rank_of(specs[a].dtype);
    const size_t rank_b = rank_of(specs[b].dtype);
    return rank_a != rank_b ? rank_a > rank_b : specs[a].name < specs[b].name;
  });
  return order;
}

std::string make_header(std::span<const TensorSpec> specs, std::span<const size_t> order,
                        std::span<const int64_t> sizes,
                        const std::map<std::string, std::string>& metadata) {
  // Joined by hand, since the order counts and only the strings need JSON's quoting.
  std::string text = fmt::format(R"({{"{}":{{"format":"pt")", kMetadataKey);
  for (const auto& [key, value] : metadata) {
    if (key == "format") throw std::logic_error("the metadata key format is ours");
    if (!is_utf8(key) || !is_utf8(value)) throw std::logic_error("metadata that is no UTF-8");
    text += fmt::format(",{}:{}", json(key).dump(), json(value).dump());
  }
  text += '}';
  int64_t begin = 0;
  for (const size_t i : order) {
    const TensorSpec& spec = specs[i];
    if (spec.name == kMetadataKey) throw std::logic_error("a tensor named __metadata__");
    const int64_t end = begin + sizes[i];
    text += fmt::format(R"(,{}:{{"dtype":"{}","shape":[{}],"data_offsets":[{},{}]}})",
                        json(spec.name).dump(), kCodes[rank_of(spec.dtype)].code,
                        fmt::join(spec.shape, ","), begin, end);
    begin = end;
  }
  text += '}';
  const size_t total = kLengthBytes + text.size();
  text.append((kDataAlignment - total % kDataAlignment) % kDataAlignment, ' ');
  return text;
}

}  // namespace

WrittenFile write_safetensors(const std::filesystem::path& path, std::span<const TensorSpec> specs,
                              const TensorBytes& bytes,
                              const std::map<std::string, std::string>& metadata) {
  const std::vector<int64_t> sizes = checked_spec_sizes(specs);
  const std::vector<size_t> order = reference_order(specs);
  const std::string header = make_header(specs, order, sizes, metadata);
  std::string length;
  append_le(length, static_cast<uint64_t>(header.size()));
  AtomicFile file(path);
  file.write(length);
  file.write(header);
  for (const size_t i : order) file.write(checked_tensor_bytes(bytes, i, sizes[i]));
  const WrittenFile written{.size_bytes = file.size_bytes(), .crc32c = file.crc32c()};
  file.commit();
  return written;
}

}  // namespace rwkv::formats
