#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "model/formats/pickle_reader.h"
#include "model/formats/tensor_file.h"

namespace rwkv::formats {

/// Longest pickle that describes a list of tensors.
constexpr int64_t kMaxPickleBytes = int64_t{64} << 20;

/// The bytes behind a storage of a pickle.
struct StorageContent {
  std::span<const std::byte> bytes;
  std::optional<uint32_t> crc32;  // still to be checked
};

/// Finds them in the container; throws UserError when they are not there, or are not as many as the
/// storage claims. `tensor` is for the message.
using FindStorage =
    std::function<StorageContent(std::string_view tensor, const PickleStorage& storage)>;

/// Appends what a pickle holds to `out`: the tensors of the dict at the top, or of the dict under
/// "model", "state_dict" or "module" when the top has no emb.weight; numbers and strings beside
/// them become metadata, everything else is ignored. Every size, stride and offset is checked
/// against the storage that is really there. Throws UserError; `source` names the file.
void read_state_dict(const Pickle& pickle, const FindStorage& find_storage,
                     const std::string& source, TensorFileContents& out);

/// Throws UserError unless the storage has exactly the `size_bytes` that `place` holds.
void check_storage_size(std::string_view tensor, const PickleStorage& storage, int64_t size_bytes,
                        std::string_view place, const std::string& source);

}  // namespace rwkv::formats
