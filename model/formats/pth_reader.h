#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>

#include "model/formats/tensor_file.h"

namespace rwkv::formats {

/// Reads a .pth as torch.save writes it since PyTorch 1.6: a zip archive with a pickle and one
/// entry per storage. See read_state_dict() for what is taken from the pickle. Device locations are
/// ignored.
///
/// Throws UserError for anything damaged, unknown or forged; `source` names the file in messages.
/// The result views `archive`.
TensorFileContents read_pth(std::span<const std::byte> archive, const std::string& source);

/// How a file of the legacy format begins: the pickle of a number.
constexpr std::string_view kLegacyPthMagic{
    "\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.", 15};

/// Reads a .pth as torch.save wrote it before PyTorch 1.6 (and still does when asked to): five
/// pickles, then the storages one after the other, without checksums. Python 2's files too. Throws
/// UserError and views `bytes` as read_pth() does.
TensorFileContents read_legacy_pth(std::span<const std::byte> bytes, const std::string& source);

}  // namespace rwkv::formats
