#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

#include "model/formats/tensor_file.h"

namespace rwkv::formats {

/// A Hugging Face folder while it is written: everything goes to `PATH.tmp-<pid>`, which commit()
/// renames; without it the destructor removes the folder again. All functions throw UserError when
/// the disk is full or read-only.
class HuggingFaceFolder {
 public:
  /// With `replace`, a folder that exists is replaced by commit(), but only if it holds nothing
  /// else than files of such a folder: else UserError, before anything is written.
  HuggingFaceFolder(std::filesystem::path path, bool replace);
  HuggingFaceFolder(const HuggingFaceFolder&) = delete;
  HuggingFaceFolder& operator=(const HuggingFaceFolder&) = delete;
  ~HuggingFaceFolder();

  /// Writes model.safetensors, or shards of at most `shard_bytes` (a larger tensor has one of its
  /// own) with their index. Tensors stay in the order of `specs` as far as shards go.
  void write_weights(std::span<const TensorSpec> specs, const TensorBytes& bytes,
                     int64_t shard_bytes);
  void write_text(const std::string& name, std::string_view text);
  /// Copies a tokenizer file; see convert().
  void copy_tokenizer(const std::filesystem::path& file);

  void commit();

 private:
  void rename_in_steps(bool replace);

  std::filesystem::path path_;
  std::filesystem::path temporary_;
  bool committed_ = false;
};

}  // namespace rwkv::formats
