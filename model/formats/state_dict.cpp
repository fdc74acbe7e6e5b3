#include "model/formats/state_dict.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <set>
#include <string>
#include <utility>

#include "data/base/checked.h"
#include "data/base/error.h"
#include "model/formats/bytes.h"

namespace rwkv::formats {
namespace {

// {"model": {"module": {...}}}; also the bound on dicts that hold themselves.
constexpr int kMaxNesting = 4;
constexpr std::array kNestedKeys = {"model", "state_dict", "module"};
// Expanded tensors (stride 0) are legal and make a small file claim any size; real ones are tiny.
constexpr int64_t kMaxExpandedElements = int64_t{1} << 20;

class StateDictReader {
 public:
  StateDictReader(const Pickle& pickle, const FindStorage& find_storage, const std::string& source,
                  TensorFileContents& out)
      : pickle_(pickle), find_storage_(find_storage), source_(source), out_(out) {}

  void run();

 private:
  PickleValue choose_dict() const;
  void add_item(PickleValue key, PickleValue value);
  void add_tensor(std::string_view name, const PickleTensor& tensor);
  void add_metadata(std::string_view name, PickleValue value);
  void check_bounds(std::string_view name, const PickleTensor& tensor, int64_t storage_numel) const;

  const Pickle& pickle_;
  const FindStorage& find_storage_;
  const std::string& source_;
  TensorFileContents& out_;
  std::set<std::string, std::less<>> names_;
};

void StateDictReader::run() {
  const std::vector<PickleValue>& items = pickle_.items(choose_dict());
  for (size_t i = 0; i + 1 < items.size(); i += 2) add_item(items[i], items[i + 1]);
  if (out_.tensors.empty()) {
    user_error(
        "{}: holds no named tensors, neither at the top nor under model, state_dict or module; "
        "save model.state_dict()",
        source_);
  }
}

PickleValue StateDictReader::choose_dict() const {
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

void StateDictReader::add_item(PickleValue key, PickleValue value) {
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

void StateDictReader::add_metadata(std::string_view name, PickleValue value) {
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

void StateDictReader::add_tensor(std::string_view name, const PickleTensor& tensor) {
  if (!is_utf8(name)) {
    user_error("{}: the name of tensor \"{}\" is no UTF-8; save the file again with Python 3",
               source_, printable(name));
  }
  if (!names_.emplace(name).second) {
    user_error("{}: two tensors named {}; save the file again", source_, printable(name));
  }
  const PickleStorage& storage = pickle_.storages[tensor.storage];
  const StorageContent content = find_storage_(name, storage);
  check_bounds(name, tensor, static_cast<int64_t>(content.bytes.size()) / item_size(storage.dtype));
  out_.tensors.push_back({.name = std::string(name),
                          .dtype = storage.dtype,
                          .shape = tensor.shape,
                          .strides = tensor.strides,
                          .storage_offset = tensor.offset,
                          .storage = content.bytes,
                          .storage_crc32 = content.crc32});
}

/// Every element of the tensor lies inside its storage; no product or sum wraps around on the way.
void StateDictReader::check_bounds(std::string_view name, const PickleTensor& tensor,
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

}  // namespace

void read_state_dict(const Pickle& pickle, const FindStorage& find_storage,
                     const std::string& source, TensorFileContents& out) {
  StateDictReader(pickle, find_storage, source, out).run();
}

void check_storage_size(std::string_view tensor, const PickleStorage& storage, int64_t size_bytes,
                        std::string_view place, const std::string& source) {
  const auto claimed = checked_mul(storage.numel, item_size(storage.dtype));
  if (storage.numel >= 0 && claimed == size_bytes) return;
  user_error(
      "{}: tensor {} claims {} elements of {}, but {} has {} bytes; fetch or save the file again",
      source, printable(tensor), storage.numel, dtype_name(storage.dtype), printable(place),
      size_bytes);
}

}  // namespace rwkv::formats
