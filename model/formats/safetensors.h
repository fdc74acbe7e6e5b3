#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>

#include "model/formats/tensor_file.h"

namespace rwkv::formats {

/// Largest header that the format allows.
constexpr int64_t kMaxSafetensorsHeaderBytes = 100'000'000;

/// Reads a .safetensors file (github.com/huggingface/safetensors): u64 header length, JSON header,
/// data. Tensors come in the order of their data. Checked: the header is strict JSON with nothing
/// repeated, every tensor has exactly the bytes of its shape, and together they cover the data from
/// its first to its last byte without gap or overlap. Stricter than the reference reader on
/// duplicates and leading space.
///
/// Throws UserError; `source` names the file in messages. The result views `bytes`.
TensorFileContents read_safetensors(std::span<const std::byte> bytes, const std::string& source);

/// Writes such a file atomically, tensors ordered as the reference writer does (largest item first,
/// then by name) and data beginning at a multiple of 64 bytes. `metadata` is stored beside
/// "format": "pt", which older readers demand. `bytes` is called in the order of the file with
/// indices into `specs`.
///
/// Throws UserError when the disk is full or read-only; std::logic_error when names repeat, are no
/// UTF-8, or `bytes` gives another size than the spec's.
WrittenFile write_safetensors(const std::filesystem::path& path, std::span<const TensorSpec> specs,
                              const TensorBytes& bytes,
                              const std::map<std::string, std::string>& metadata = {});

}  // namespace rwkv::formats
