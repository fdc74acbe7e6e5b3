#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "model/formats/huggingface.h"
#include "model/formats/tensor_file.h"

namespace rwkv::formats {

/// What a conversion may write.
enum class Target { kPth, kSafetensors, kHuggingFace, kRwkvCpp };

struct ConvertOptions {
  Target target = Target::kPth;
  /// Type of all tensors; nothing keeps the stored ones. rwkv.cpp: fp32 or fp16 for the matrices
  /// (nothing: fp16 when all of them are fp16 already).
  std::optional<DType> dtype;
  int64_t shard_bytes = 5'000'000'000;  // Hugging Face: tensors in one file, at most (one at least)
  HuggingFaceOptions hugging_face;      // its dtype is set by convert()
  std::vector<std::filesystem::path> tokenizer;  // Hugging Face: files to copy, see below
  bool force = false;                            // overwrite what is there
  /// Called before each tensor with the bytes written so far and in all.
  std::function<void(int64_t done, int64_t all)> progress = [](int64_t, int64_t) {};
};

/// What was written, for the user.
struct ConvertReport {
  int64_t tensors = 0;
  int64_t size_bytes = 0;
  std::vector<std::string> notes;  // what he should know, one line each
};

/// Writes the weights of `in` to `out` (a file, or a folder for Hugging Face) tensor by tensor: at
/// most one is in memory. Mask buffers are left out, and time_mix gets the shape of the target.
///
/// A tokenizer file is copied: a tokenizer.json of the tokenizers library as such, with the
/// tokenizer_config.json and special_tokens_map.json that transformers wants; any other file under
/// its own name.
///
/// Atomic: `out` is the old one or the whole new one. Throws UserError when `in` is no RWKV model
/// or has options that the target cannot express, a value does not fit fp16, `out` exists and
/// `force` is not set, or `out` is (or contains) a file of `in`.
ConvertReport convert(const TensorFile& in, const std::filesystem::path& out,
                      const ConvertOptions& options);

/// "fp32", "fp16" or "bf16"; throws UserError that names `option` for other words.
DType parse_weight_dtype(std::string_view word, std::string_view option);

}  // namespace rwkv::formats
