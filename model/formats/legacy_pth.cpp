#include <map>
#include <string>
#include <string_view>
#include <utility>

#include "data/base/checked.h"
#include "data/base/error.h"
#include "model/formats/bytes.h"
#include "model/formats/pickle_reader.h"
#include "model/formats/pth_reader.h"
#include "model/formats/state_dict.h"

namespace rwkv::formats {
namespace {

constexpr int64_t kProtocolVersion = 1001;

class LegacyPthReader {
 public:
  LegacyPthReader(std::span<const std::byte> bytes, const std::string& source)
      : rest_(bytes), source_(source) {}

  TensorFileContents run();

 private:
  Pickle next_pickle();
  void read_prologue();
  void find_types(const Pickle& pickle);
  void find_storages(const Pickle& keys);
  StorageContent storage_of(std::string_view tensor, const PickleStorage& storage) const;

  template <typename... Args>
  [[noreturn]] void fail(fmt::format_string<Args...> format, Args&&... args) const {
    user_error("{}: legacy .pth: {}; fetch the file again, or load and torch.save it in Python",
               source_, fmt::format(format, std::forward<Args>(args)...));
  }

  std::span<const std::byte> rest_;  // what has not been read yet
  const std::string& source_;
  std::map<std::string, DType, std::less<>> types_;  // of the storages, by key
  std::map<std::string, std::span<const std::byte>, std::less<>> storages_;
};

TensorFileContents LegacyPthReader::run() {
  read_prologue();
  const Pickle object = next_pickle();
  find_types(object);
  find_storages(next_pickle());
  TensorFileContents out;
  out.kind = "legacy pth";
  const auto find = [this](std::string_view tensor, const PickleStorage& storage) {
    return storage_of(tensor, storage);
  };
  read_state_dict(object, find, source_, out);
  return out;
}

Pickle LegacyPthReader::next_pickle() {
  const auto bytes = rest_.first(std::min<size_t>(rest_.size(), kMaxPickleBytes));
  Pickle pickle = read_pickle(bytes, source_);
  rest_ = rest_.subspan(pickle.bytes_used);
  return pickle;
}

/// Three pickles: a magic number, the version, and the sizes and byte order of the machine.
void LegacyPthReader::read_prologue() {
  rest_ = rest_.subspan(kLegacyPthMagic.size());
  const Pickle version = next_pickle();
  if (!version.root.is(PickleKind::integer) || version.root.bits != kProtocolVersion) {
    fail("its version is not {}", kProtocolVersion);
  }
  const Pickle machine = next_pickle();
  if (!machine.root.is(PickleKind::dict)) fail("no description of the machine that wrote it");
  const auto little = machine.lookup(machine.root, "little_endian");
  if (!little || !little->is(PickleKind::boolean)) fail("its byte order is not told");
  if (little->bits == 0) fail("its byte order is big-endian, only little-endian can be read");
}

void LegacyPthReader::find_types(const Pickle& pickle) {
  for (const PickleStorage& storage : pickle.storages) {
    const auto [place, is_new] = types_.emplace(storage.key, storage.dtype);
    if (!is_new && place->second != storage.dtype) {
      fail("storage {} is both {} and {}", printable(storage.key), dtype_name(place->second),
           dtype_name(storage.dtype));
    }
  }
}

/// The storages follow in the order of the list of keys, each behind its number of elements.
void LegacyPthReader::find_storages(const Pickle& keys) {
  if (!keys.root.is(PickleKind::list)) fail("no list of storages");
  for (const PickleValue value : keys.items(keys.root)) {
    if (!value.is(PickleKind::string) && !value.is(PickleKind::integer)) {
      fail("the key of a storage is neither text nor a number");
    }
    const std::string key =
        value.is(PickleKind::string) ? std::string(keys.string(value)) : std::to_string(value.bits);
    const auto type = types_.find(key);
    if (type == types_.end()) fail("no tensor says what type storage {} has", printable(key));
    if (rest_.size() < sizeof(int64_t)) fail("cut short before storage {}", printable(key));
    const auto numel = load_le<int64_t>(rest_, 0);
    rest_ = rest_.subspan(sizeof(int64_t));
    const auto size = checked_mul(numel, item_size(type->second));
    if (numel < 0 || !size || static_cast<uint64_t>(*size) > rest_.size()) {
      fail("storage {} claims {} elements of {} where {} bytes are left (cut short)",
           printable(key), numel, dtype_name(type->second), rest_.size());
    }
    const auto content = rest_.first(static_cast<size_t>(*size));
    if (!storages_.emplace(key, content).second) fail("two storages {}", printable(key));
    rest_ = rest_.subspan(content.size());
  }
  if (!rest_.empty()) fail("{} bytes follow the last storage", rest_.size());
}

StorageContent LegacyPthReader::storage_of(std::string_view tensor,
                                           const PickleStorage& storage) const {
  const auto found = storages_.find(storage.key);
  if (found == storages_.end()) {
    fail("tensor {} lies in storage {}, which is not there", printable(tensor),
         printable(storage.key));
  }
  const auto bytes = found->second;
  const std::string place = "storage " + storage.key;
  check_storage_size(tensor, storage, static_cast<int64_t>(bytes.size()), place, source_);
  if (!storage.view) return {.bytes = bytes, .crc32 = {}};
  const auto [offset, numel] = *storage.view;
  const auto end = checked_add(offset, numel);
  if (offset < 0 || numel < 0 || !end || *end > storage.numel) {
    fail("tensor {} lies in elements {} to {}+{} of a storage of {}", printable(tensor), offset,
         offset, numel, storage.numel);
  }
  const auto item = static_cast<size_t>(item_size(storage.dtype));
  return {
      .bytes = bytes.subspan(static_cast<size_t>(offset) * item, static_cast<size_t>(numel) * item),
      .crc32 = {}};
}

}  // namespace

TensorFileContents read_legacy_pth(std::span<const std::byte> bytes, const std::string& source) {
  return LegacyPthReader(bytes, source).run();
}

}  // namespace rwkv::formats
