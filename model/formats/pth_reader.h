#pragma once

#include <cstddef>
#include <span>
#include <string>

#include "model/formats/tensor_file.h"

namespace rwkv::formats {

/// Reads a .pth as torch.save writes it since PyTorch 1.6: a zip archive with a pickle and one
/// entry per storage. The tensors are those of the dict at the top, or of the dict under "model",
/// "state_dict" or "module" when the top has no emb.weight; prefixes such as "module." before all
/// names are dropped. Numbers and strings beside the tensors go to `metadata`, everything else is
/// ignored. Device locations are ignored. Every size, stride and offset has been checked against
/// the storage that is really there.
///
/// Throws UserError for anything damaged, unknown or forged; `source` names the file in messages.
/// The result views `archive`.
TensorFileContents read_pth(std::span<const std::byte> archive, const std::string& source);

}  // namespace rwkv::formats
