#include "model/formats/pth_reader.h"

#include <fmt/format.h>

#include <map>
#include <string_view>
#include <utility>

#include "data/base/error.h"
#include "model/formats/bytes.h"
#include "model/formats/pickle_reader.h"
#include "model/formats/state_dict.h"
#include "model/formats/zip_reader.h"

namespace rwkv::formats {
namespace {

constexpr std::string_view kPickleName = "data.pkl";

class PthReader {
 public:
  PthReader(std::span<const std::byte> archive, const std::string& source)
      : source_(source), zip_(archive, source) {}

  TensorFileContents run();

 private:
  void find_root();
  void check_byte_order();
  StorageContent content_of(const ZipEntry& entry);
  StorageContent storage_of(std::string_view name, const PickleStorage& storage);

  const std::string& source_;
  ZipReader zip_;
  std::string root_;  // "archive/", or empty
  std::map<std::string, StorageContent> storages_;
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
  const StorageContent content = content_of(entry);
  if (content.crc32) zip_.verify(entry, content.bytes);
  const Pickle pickle = read_pickle(content.bytes, source_);
  if (pickle.bytes_used != content.bytes.size()) {
    user_error("{}: {} bytes follow the end of its pickle; save the file again", source_,
               content.bytes.size() - pickle.bytes_used);
  }
  const auto find = [this](std::string_view name, const PickleStorage& storage) {
    return storage_of(name, storage);
  };
  read_state_dict(pickle, find, source_, out_);
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

StorageContent PthReader::content_of(const ZipEntry& entry) {
  if (!entry.deflated) {
    StorageContent content{.bytes = entry.data, .crc32 = {}};
    if (zip_.has_checksums()) content.crc32 = entry.crc32;
    return content;
  }
  out_.buffers.push_back(zip_.inflate(entry));
  return {.bytes = {out_.buffers.back().get(), static_cast<size_t>(entry.size_bytes)}, .crc32 = {}};
}

StorageContent PthReader::storage_of(std::string_view name, const PickleStorage& storage) {
  const std::string entry_name = root_ + "data/" + storage.key;
  if (storage.view) {
    user_error(
        "{}: tensor {} lies in a view of a storage, which zip files do not have; save it again",
        source_, printable(name));
  }
  const ZipEntry* entry = zip_.find(entry_name);
  if (entry == nullptr) {
    user_error(
        "{}: tensor {} lies in {}, which is not in the archive; fetch or save the file again",
        source_, printable(name), printable(entry_name));
  }
  check_storage_size(name, storage, entry->size_bytes, entry_name, source_);
  const auto known = storages_.find(storage.key);
  if (known != storages_.end()) return known->second;
  return storages_[storage.key] = content_of(*entry);
}

}  // namespace

TensorFileContents read_pth(std::span<const std::byte> archive, const std::string& source) {
  return PthReader(archive, source).run();
}

}  // namespace rwkv::formats
