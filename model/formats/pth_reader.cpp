#include "model/formats/pth_reader.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>
#include <optional>
#include <set>
#include <string_view>
#include <utility>

#include "data/base/checked.h"
#include "data/base/error.h"
#include "model/formats/bytes.h"
#include "model/formats/pickle_reader.h"
#include "model/formats/zip_reader.h"

namespace rwkv::formats {
namespace {

constexpr int64_t kMaxPickleBytes = int64_t{64} << 20;
constexpr int kMaxNesting =
    4;  // {"model": {"module": {...}}}; also the bound on dicts that hold themselves
constexpr std::string_view kPickleName = "data.pkl";
constexpr std::array kNestedKeys = {"model", "state_dict", "module"};
constexpr std::array kPrefixes = {"module.", "model.", "_forward_module.", "_orig_mod."};
// Expanded tensors (stride 0) are legal and make a small file claim any size; real ones are tiny.
constexpr int64_t kMaxExpandedElements = int64_t{1} << 20;

class PthReader {
 public:
  PthReader(std::span<const std::byte> archive, const std::string& source)
      : source_(source), zip_(archive, source) {}

  TensorFileContents run();

 private:
  struct Content {
    std::span<const std::byte> bytes;
    std::optional<uint32_t> crc32;  // still to be checked
  };

  void find_root();
  void check_byte_order();
  Content content_of(const ZipEntry& entry);
  PickleValue choose_dict() const;
  void add_item(PickleValue key, PickleValue value);
  void add_tensor(std::string_view name, const PickleTensor& tensor);
  void add_metadata(std::string_view name, PickleValue value);
  Content storage_of(std::string_view name, const PickleStorage& storage);
  void check_bounds(std::string_view name, const PickleTensor& tensor, int64_t storage_numel) const;
  void strip_prefix();

  const std::string& source_;
  ZipReader zip_;
  std::string root_;  // "archive/", or empty
  Pickle pickle_;
  std::map<std::string, Content> storages_;
  std::set<std::string, std::less<>> names_;
  TensorFileContents out_;
};

TensorFileContents PthReader::run() {
  out_.kind = "pth";
  find_root();
  check_byte_order();
  const ZipEntry& entry = *zip_.find(root_ + std::string(kPickleName));
  if (entry.size_bytes > kMaxPickleBytes) {
    user_error(
        "{}: {} has {} bytes, too many for a list of tensors; save the weights without other "
        "objects",
        source_, printable(entry.name), entry.size_bytes);
  }
  const Content content = content_of(entry);
  if (content.crc32) zip_.verify(entry, content.bytes);
  pickle_ = read_pickle(content.bytes, source_);
  if (pickle_.bytes_used != content.bytes.size()) {
    user_error("{}: {} bytes follow the end of its pickle; save the file again", source_,
               content.bytes.size() - pickle_.bytes_used);
  }
  const std::vector<PickleValue>& items = pickle_.items(choose_dict());
  for (size_t i = 0; i + 1 < items.size(); i += 2) add_item(items[i], items[i + 1]);
  if (out_.tensors.empty()) {
    user_error(
        "{}: holds no named tensors, neither at the top nor under model, state_dict or module; "
        "save "
        "model.state_dict()",
        source_);
  }
  strip_prefix();
  if (!zip_.has_checksums()) {
    out_.warnings.push_back(source_ + " was written without checksums: damage cannot be noticed");
  }
  return std::move(out_);
}

void PthReader::find_root() {
  const ZipEntry* found = nullptr;
  for (const ZipEntry& entry : zip_.entries()) {
    const std::string_view name = entry.name;
    if (name.ends_with("/constants.pkl") || name == "constants.pkl") {
      user_error(
          "{} is a TorchScript archive (torch::save, torch.jit.save), which may hold code; in "
          "Python "
          "torch.save(model.state_dict(), ...) instead",
          source_);
    }
    if (name != kPickleName && !name.ends_with("/data.pkl")) continue;
    if (found != nullptr) {
      user_error("{}: two pickles, {} and {}; save the file again with torch.save", source_,
                 printable(found->name), printable(name));
    }
    found = &entry;
  }
  if (found == nullptr) {
    user_error(
        "{} is a zip archive without data.pkl, so torch.save did not make it; if the weights lie "
        "inside, unpack it and name them",
        source_);
  }
  root_ = found->name.substr(0, found->name.size() - kPickleName.size());
}

void PthReader::check_byte_order() {
  const ZipEntry* entry = zip_.find(root_ + "byteorder");
  if (entry == nullptr) return;
  // At most "little" and a line end: no reason to inflate anything longer.
  const std::string_view text = entry->size_bytes <= 16 ? as_text(content_of(*entry).bytes) : "";
  if (!text.starts_with("little")) {
    user_error(
        "{}: its byte order is \"{}\", only little-endian files can be read; save it again on a "
        "little-endian machine",
        source_, printable(text));
  }
}

PthReader::Content PthReader::content_of(const ZipEntry& entry) {
  if (!entry.deflated) {
    Content content{.bytes = entry.data, .crc32 = {}};
    if (zip_.has_checksums()) content.crc32 = entry.crc32;
    return content;
  }
  out_.buffers.push_back(zip_.inflate(entry));
  return {.bytes = {out_.buffers.back().get(), static_cast<size_t>(entry.size_bytes)}, .crc32 = {}};
}

PickleValue PthReader::choose_dict() const {
  PickleValue dict = pickle_.root;
  if (!dict.is(PickleKind::dict)) {
    user_error("{}: holds something else than a dict of tensors; save model.state_dict()", source_);
  }
  for (int depth = 0; depth < kMaxNesting && !pickle_.lookup(dict, "emb.weight"); ++depth) {
    std::optional<PickleValue> nested;
    for (const std::string_view key : kNestedKeys) {
      if (nested) break;
      nested = pickle_.lookup(dict, key);
      if (nested && !nested->is(PickleKind::dict)) nested.reset();
    }
    if (!nested) break;
    dict = *nested;
  }
  return dict;
}

void PthReader::add_item(PickleValue key, PickleValue value) {
  if (!key.is(PickleKind::string)) {
    if (value.is(PickleKind::tensor)) {
      user_error("{}: a tensor whose name is no string; save model.state_dict()", source_);
    }
    return;
  }
  const std::string_view name = pickle_.string(key);
  if (value.is(PickleKind::tensor)) {
    add_tensor(name, pickle_.tensor(value));
  } else {
    add_metadata(name, value);
  }
}

void PthReader::add_metadata(std::string_view name, PickleValue value) {
  if (!is_utf8(name)) return;
  std::string& text = out_.metadata[std::string(name)];
  switch (value.kind) {
    case PickleKind::boolean:
      text = value.bits != 0 ? "true" : "false";
      return;
    case PickleKind::integer:
      text = std::to_string(value.bits);
      return;
    case PickleKind::real:
      text = fmt::format("{}", value.real());
      return;
    case PickleKind::string:
      text = pickle_.string(value);
      return;
    default:
      out_.metadata.erase(std::string(name));
      return;
  }
}

void PthReader::add_tensor(std::string_view name, const PickleTensor& tensor) {
  if (!is_utf8(name)) {
    user_error("{}: the name of tensor \"{}\" is no UTF-8; save the file again with Python 3",
               source_, printable(name));
  }
  if (!names_.emplace(name).second) {
    user_error("{}: two tensors named {}; save the file again", source_, printable(name));
  }
  const PickleStorage& storage = pickle_.storages[tensor.storage];
  const Content content = storage_of(name, storage);
  check_bounds(name, tensor, storage.numel);
  out_.tensors.push_back({.name = std::string(name),
                          .dtype = storage.dtype,
                          .shape = tensor.shape,
                          .strides = tensor.strides,
                          .storage_offset = tensor.offset,
                          .storage = content.bytes,
                          .storage_crc32 = content.crc32});
}

PthReader::Content PthReader::storage_of(std::string_view name, const PickleStorage& storage) {
  const std::string entry_name = root_ + "data/" + storage.key;
  const ZipEntry* entry = zip_.find(entry_name);
  if (entry == nullptr) {
    user_error(
        "{}: tensor {} lies in {}, which is not in the archive; fetch or save the file again",
        source_, printable(name), printable(entry_name));
  }
  const auto claimed = checked_mul(storage.numel, item_size(storage.dtype));
  if (storage.numel < 0 || claimed != entry->size_bytes) {
    user_error(
        "{}: tensor {} claims {} elements of {}, but {} has {} bytes; fetch or save the file again",
        source_, printable(name), storage.numel, dtype_name(storage.dtype), printable(entry_name),
        entry->size_bytes);
  }
  const auto known = storages_.find(storage.key);
  if (known != storages_.end()) return known->second;
  return storages_[storage.key] = content_of(*entry);
}

/// Every element of the tensor lies inside its storage; no product or sum wraps around on the way.
void PthReader::check_bounds(std::string_view name, const PickleTensor& tensor,
                             int64_t storage_numel) const {
  const auto refuse = [&](std::string_view problem) {
    user_error(
        "{}: tensor {} of shape [{}], strides [{}], offset {} {}, its storage has {} elements; "
        "save the "
        "file again",
        source_, printable(name), fmt::join(tensor.shape, ", "), fmt::join(tensor.strides, ", "),
        tensor.offset, problem, storage_numel);
  };
  const auto is_negative = [](int64_t value) { return value < 0; };
  if (tensor.shape.size() != tensor.strides.size()) refuse("has not one stride for each size");
  if (tensor.offset < 0 || std::any_of(tensor.shape.begin(), tensor.shape.end(), is_negative) ||
      std::any_of(tensor.strides.begin(), tensor.strides.end(), is_negative)) {
    refuse("is described by negative numbers");
  }
  const auto bytes = byte_size(DType::f64, tensor.shape);  // the largest item: all later sums fit
  if (!bytes) refuse("has more elements than fit");
  const int64_t numel = *bytes / item_size(DType::f64);
  if (numel > std::max(storage_numel, kMaxExpandedElements)) refuse("is larger than its storage");
  if (numel == 0) {
    if (tensor.offset > storage_numel) refuse("begins outside");
    return;
  }
  std::optional<int64_t> last = tensor.offset;
  for (size_t i = 0; i < tensor.shape.size() && last; ++i) {
    const auto step = checked_mul(tensor.shape[i] - 1, tensor.strides[i]);
    last = step ? checked_add(*last, *step) : std::nullopt;
  }
  if (!last || *last >= storage_numel) refuse("reaches outside");
}

/// "module.model.emb.weight" in a file whose names all begin with "module.model.": that much is
/// dropped.
void PthReader::strip_prefix() {
  constexpr std::string_view kAnchor = "emb.weight";
  std::string prefix;
  for (const TensorInfo& tensor : out_.tensors) {
    std::string_view rest = tensor.name;
    for (auto part = kPrefixes.begin(); part != kPrefixes.end();) {
      if (rest.starts_with(*part)) {
        rest.remove_prefix(std::string_view(*part).size());
        part = kPrefixes.begin();
      } else {
        ++part;
      }
    }
    if (rest == kAnchor) prefix = tensor.name.substr(0, tensor.name.size() - rest.size());
  }
  for (const TensorInfo& tensor : out_.tensors) {
    if (!tensor.name.starts_with(prefix)) return;
  }
  for (TensorInfo& tensor : out_.tensors) tensor.name.erase(0, prefix.size());
}

}  // namespace

TensorFileContents read_pth(std::span<const std::byte> archive, const std::string& source) {
  return PthReader(archive, source).run();
}

}  // namespace rwkv::formats
