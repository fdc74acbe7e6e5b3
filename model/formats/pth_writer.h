#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>

#include "model/formats/tensor_file.h"

namespace rwkv::formats {

/// Writes a .pth that Python's torch.load accepts with its defaults (weights_only) and with
/// mmap=True: a plain dict, one contiguous storage a tensor, no attributes. Tensors are streamed in
/// the given order, at most one is in memory. Atomic: `path` holds the old file or the whole new
/// one.
///
/// Throws UserError when the disk is full or read-only, or for a dtype that .pth has no storage
/// type for (u16, u32, u64, float8); std::logic_error when names repeat or `bytes` gives another
/// size than the spec's. `zip64_from` is for tests, see ZipWriter.
WrittenFile write_pth(const std::filesystem::path& path, std::span<const TensorSpec> specs,
                      const TensorBytes& bytes, uint64_t zip64_from = 0xffffffff);

/// The pickle of such a file (its entry data.pkl).
std::string make_state_dict_pickle(std::span<const TensorSpec> specs);

}  // namespace rwkv::formats
