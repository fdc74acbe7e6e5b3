#pragma once

#include <cstdint>
#include <string_view>

namespace rwkv::data {

// The header of .idx files, shared by reader and writer; the layout stands in indexed_dataset.h.

inline constexpr std::string_view kIndexMagic{"MMIDIDX\0\0", 9};
inline constexpr uint64_t kIndexVersion = 1;
inline constexpr int64_t kVersionOffset = 9;
inline constexpr int64_t kTypeOffset = 17;
inline constexpr int64_t kSequencesOffset = 18;
inline constexpr int64_t kDocumentsOffset = 26;
inline constexpr int64_t kIndexHeaderBytes = 34;

}  // namespace rwkv::data
