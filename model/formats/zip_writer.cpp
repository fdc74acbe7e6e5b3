#include "model/formats/zip_writer.h"

#include "model/formats/bytes.h"
#include "model/formats/crc32.h"

namespace rwkv::formats {
namespace {

constexpr uint64_t kAlignment = 64;
constexpr uint16_t kVersion = 20;
constexpr uint16_t kZip64Version = 45;
constexpr uint16_t kZip64Extra = 1;
constexpr uint16_t kPaddingExtra = 0x4246;  // "FB", as torch writes it
constexpr uint16_t kDosDate = 0x21;         // 1 January 1980: files of equal content are equal
constexpr uint32_t kFull32 = 0xffffffff;
constexpr uint64_t kFull16 = 0xffff;

}  // namespace

uint32_t ZipWriter::narrow(uint64_t value) const {
  return is_wide(value) ? kFull32 : static_cast<uint32_t>(value);
}

void ZipWriter::add(const std::string& name, std::span<const std::byte> content) {
  const Entry entry{.name = name,
                    .crc32 = formats::crc32(content),
                    .size = content.size(),
                    .offset = static_cast<uint64_t>(file_.size_bytes())};
  file_.write(local_header(entry));
  file_.write(content);
  entries_.push_back(entry);
}

std::string ZipWriter::local_header(const Entry& entry) const {
  std::string zip64;
  if (is_wide(entry.size)) {
    append_le<uint16_t>(zip64, kZip64Extra);
    append_le<uint16_t>(zip64, 16);
    append_le<uint64_t>(zip64, entry.size);
    append_le<uint64_t>(zip64, entry.size);
  }
  const uint64_t unpadded = entry.offset + 30 + entry.name.size() + zip64.size() + 4;
  const uint64_t padding = (kAlignment - unpadded % kAlignment) % kAlignment;

  std::string out = "PK\x03\x04";
  append_le<uint16_t>(out, zip64.empty() ? kVersion : kZip64Version);
  append_le<uint16_t>(out, 0);  // flags
  append_le<uint16_t>(out, 0);  // stored
  append_le<uint16_t>(out, 0);  // time
  append_le<uint16_t>(out, kDosDate);
  append_le<uint32_t>(out, entry.crc32);
  append_le<uint32_t>(out, narrow(entry.size));
  append_le<uint32_t>(out, narrow(entry.size));
  append_le<uint16_t>(out, static_cast<uint16_t>(entry.name.size()));
  append_le<uint16_t>(out, static_cast<uint16_t>(zip64.size() + 4 + padding));
  out += entry.name;
  out += zip64;
  append_le<uint16_t>(out, kPaddingExtra);
  append_le<uint16_t>(out, static_cast<uint16_t>(padding));
  out.append(padding, 'Z');
  return out;
}

std::string ZipWriter::central_header(const Entry& entry) const {
  std::string zip64;  // only the fields that do not fit, in this order
  if (is_wide(entry.size)) {
    append_le<uint64_t>(zip64, entry.size);
    append_le<uint64_t>(zip64, entry.size);
  }
  if (is_wide(entry.offset)) append_le<uint64_t>(zip64, entry.offset);
  std::string extra;
  if (!zip64.empty()) {
    append_le<uint16_t>(extra, kZip64Extra);
    append_le<uint16_t>(extra, static_cast<uint16_t>(zip64.size()));
    extra += zip64;
  }
  const uint16_t version = zip64.empty() ? kVersion : kZip64Version;

  std::string out = "PK\x01\x02";
  append_le<uint16_t>(out, version);
  append_le<uint16_t>(out, version);
  append_le<uint16_t>(out, 0);  // flags
  append_le<uint16_t>(out, 0);  // stored
  append_le<uint16_t>(out, 0);  // time
  append_le<uint16_t>(out, kDosDate);
  append_le<uint32_t>(out, entry.crc32);
  append_le<uint32_t>(out, narrow(entry.size));
  append_le<uint32_t>(out, narrow(entry.size));
  append_le<uint16_t>(out, static_cast<uint16_t>(entry.name.size()));
  append_le<uint16_t>(out, static_cast<uint16_t>(extra.size()));
  append_le<uint16_t>(out, 0);  // comment
  append_le<uint16_t>(out, 0);  // disk
  append_le<uint16_t>(out, 0);  // internal attributes
  append_le<uint32_t>(out, 0);  // external attributes
  append_le<uint32_t>(out, narrow(entry.offset));
  out += entry.name;
  out += extra;
  return out;
}

void ZipWriter::finish() {
  const auto directory_at = static_cast<uint64_t>(file_.size_bytes());
  std::string out;
  for (const Entry& entry : entries_) out += central_header(entry);
  const uint64_t directory_bytes = out.size();
  const uint64_t count = entries_.size();
  if (count >= kFull16 || is_wide(directory_at) || is_wide(directory_bytes)) {
    out += "PK\x06\x06";
    append_le<uint64_t>(out, 44);  // bytes that follow in this record
    append_le<uint16_t>(out, kZip64Version);
    append_le<uint16_t>(out, kZip64Version);
    append_le<uint32_t>(out, 0);  // this disk
    append_le<uint32_t>(out, 0);  // the directory's disk
    append_le<uint64_t>(out, count);
    append_le<uint64_t>(out, count);
    append_le<uint64_t>(out, directory_bytes);
    append_le<uint64_t>(out, directory_at);
    out += "PK\x06\x07";
    append_le<uint32_t>(out, 0);
    append_le<uint64_t>(out, directory_at + directory_bytes);
    append_le<uint32_t>(out, 1);  // disks
  }
  const auto narrow_count = static_cast<uint16_t>(count < kFull16 ? count : kFull16);
  out += "PK\x05\x06";
  append_le<uint16_t>(out, 0);
  append_le<uint16_t>(out, 0);
  append_le<uint16_t>(out, narrow_count);
  append_le<uint16_t>(out, narrow_count);
  append_le<uint32_t>(out, narrow(directory_bytes));
  append_le<uint32_t>(out, narrow(directory_at));
  append_le<uint16_t>(out, 0);  // comment
  file_.write(out);
}

}  // namespace rwkv::formats
