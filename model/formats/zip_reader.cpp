#include "model/formats/zip_reader.h"

#include <fmt/format.h>
#include <zlib.h>

#include <algorithm>
#include <limits>
#include <new>
#include <utility>

#include "data/base/checked.h"
#include "data/base/error.h"
#include "model/formats/bytes.h"
#include "model/formats/crc32.h"

namespace rwkv::formats {
namespace {

constexpr uint32_t kLocalHeader = 0x04034b50;
constexpr uint32_t kCentralHeader = 0x02014b50;
constexpr uint32_t kEndRecord = 0x06054b50;
constexpr uint32_t kZip64EndRecord = 0x06064b50;
constexpr uint32_t kZip64Locator = 0x07064b50;
constexpr uint64_t kLocalHeaderBytes = 30;
constexpr uint64_t kCentralHeaderBytes = 46;
constexpr uint64_t kEndRecordBytes = 22;
constexpr uint64_t kZip64EndRecordBytes = 56;
constexpr uint64_t kZip64LocatorBytes = 20;
constexpr uint16_t kZip64Extra = 1;
constexpr uint32_t kFull32 = 0xffffffff;  // "look into the zip64 record"
constexpr uint16_t kFull16 = 0xffff;
constexpr unsigned kEncryptionFlags = 1U | (1U << 6U) | (1U << 13U);
// Deflate cannot do better than 258 bytes for 2 bits.
constexpr uint64_t kMaxDeflateRatio = 1032;
constexpr uint64_t kMaxInflatedBytes = uint64_t{16} << 30U;

/// The field, or the zip64 value where the 16- or 32-bit field is saturated. A field that is not
/// must agree.
bool merge(uint64_t& classic, uint64_t full_mark, uint64_t wide) {
  if (classic != full_mark && classic != wide) return false;
  classic = wide;
  return true;
}

class InflateStream {
 public:
  InflateStream() : ready_(::inflateInit2(&stream, -MAX_WBITS) == Z_OK) {}
  InflateStream(const InflateStream&) = delete;
  InflateStream& operator=(const InflateStream&) = delete;
  ~InflateStream() {
    if (ready_) ::inflateEnd(&stream);
  }
  [[nodiscard]] bool ready() const { return ready_; }

  z_stream stream{};

 private:
  bool ready_;
};

/// Inflates all of `packed`; true when it ends exactly at its last byte and filled exactly `size`
/// of the `size` + 1 bytes at `out`. zlib counts in 32 bits, hence the slices.
bool inflate_exactly(std::span<const std::byte> packed, std::byte* out, size_t size) {
  InflateStream inflater;
  if (!inflater.ready()) throw std::bad_alloc();
  z_stream& stream = inflater.stream;
  constexpr size_t kSlice = size_t{1} << 30U;
  size_t taken = 0;
  size_t made = 0;
  while (true) {
    const size_t in = std::min(kSlice, packed.size() - taken);
    const size_t room = std::min(kSlice, size + 1 - made);
    stream.next_in = reinterpret_cast<Bytef*>(const_cast<std::byte*>(packed.data() + taken));
    stream.avail_in = static_cast<uInt>(in);
    stream.next_out = reinterpret_cast<Bytef*>(out + made);
    stream.avail_out = static_cast<uInt>(room);
    const int result = ::inflate(&stream, Z_NO_FLUSH);
    const size_t step_in = in - stream.avail_in;
    const size_t step_out = room - stream.avail_out;
    taken += step_in;
    made += step_out;
    if (result == Z_STREAM_END) return made == size && taken == packed.size();
    if (result != Z_OK || made > size || (step_in == 0 && step_out == 0)) return false;
  }
}

}  // namespace

struct ZipReader::CentralRecord {
  std::string_view name;
  uint16_t flags = 0;
  uint16_t method = 0;
  uint32_t crc32 = 0;
  uint64_t packed_size = 0;
  uint64_t size = 0;
  uint64_t offset = 0;
  uint64_t record_bytes = 0;
};

ZipReader::ZipReader(std::span<const std::byte> archive, std::string source)
    : archive_(archive), source_(std::move(source)) {
  read_directory(read_end_records());
  check_overlaps();
  check_inflated_sizes();
  const auto is_blank = [](const ZipEntry& entry) { return entry.crc32 == 0; };
  const auto is_empty = [](const ZipEntry& entry) { return entry.size_bytes == 0; };
  has_checksums_ = !std::all_of(entries_.begin(), entries_.end(), is_blank) ||
                   std::all_of(entries_.begin(), entries_.end(), is_empty);
}

const ZipEntry* ZipReader::find(std::string_view name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : &entries_[found->second];
}

void ZipReader::fail(const std::string& problem) const {
  user_error("{}: {}; the archive is damaged or was cut short, fetch or save it again", source_,
             problem);
}

std::span<const std::byte> ZipReader::slice(uint64_t offset, uint64_t length,
                                            std::string_view what) const {
  if (offset > archive_.size() || archive_.size() - offset < length) {
    fail(fmt::format("{} at byte {} ({} bytes) lies outside of its {} bytes", what, offset, length,
                     archive_.size()));
  }
  return archive_.subspan(offset, length);
}

uint64_t ZipReader::find_end_record() const {
  const uint64_t size = archive_.size();
  const uint64_t furthest = std::min<uint64_t>(size, kEndRecordBytes + kFull16);
  for (uint64_t back = kEndRecordBytes; back <= furthest; ++back) {
    const uint64_t at = size - back;
    if (load_le<uint32_t>(archive_, at) != kEndRecord) continue;
    if (load_le<uint16_t>(archive_, at + 20) == back - kEndRecordBytes) return at;
  }
  fail("no zip end record in its last bytes");
}

ZipReader::Directory ZipReader::read_end_records() const {
  const uint64_t at = find_end_record();
  const auto end = slice(at, kEndRecordBytes, "the end record");
  Directory directory{.offset = load_le<uint32_t>(end, 16),
                      .size = load_le<uint32_t>(end, 12),
                      .count = load_le<uint16_t>(end, 10)};
  if (load_le<uint16_t>(end, 4) != 0 || load_le<uint16_t>(end, 6) != 0 ||
      load_le<uint16_t>(end, 8) != directory.count) {
    fail("the end record speaks of a split archive");
  }
  uint64_t directory_end = at;
  if (at >= kZip64LocatorBytes &&
      load_le<uint32_t>(archive_, at - kZip64LocatorBytes) == kZip64Locator) {
    const uint64_t locator_at = at - kZip64LocatorBytes;
    directory = read_zip64_end(locator_at, directory);
    directory_end = load_le<uint64_t>(archive_, locator_at + 8);
  }
  // Nothing may hide between the directory and its end record, and nothing may precede the archive.
  if (checked_add(directory.offset, directory.size) != directory_end) {
    fail(fmt::format("its directory of {} bytes at byte {} does not end at its end record at {}",
                     directory.size, directory.offset, directory_end));
  }
  return directory;
}

ZipReader::Directory ZipReader::read_zip64_end(uint64_t locator_at,
                                               const Directory& classic) const {
  const auto locator = slice(locator_at, kZip64LocatorBytes, "the zip64 locator");
  const auto at = load_le<uint64_t>(locator, 8);
  const auto end = slice(at, kZip64EndRecordBytes, "the zip64 end record");
  const bool fits = load_le<uint32_t>(end, 0) == kZip64EndRecord &&
                    checked_add(load_le<uint64_t>(end, 4), at + 12) == locator_at;
  if (!fits) fail(fmt::format("no zip64 end record at byte {}", at));
  if (load_le<uint32_t>(locator, 4) != 0 || load_le<uint32_t>(locator, 16) > 1 ||
      load_le<uint32_t>(end, 16) != 0 || load_le<uint32_t>(end, 20) != 0 ||
      load_le<uint64_t>(end, 24) != load_le<uint64_t>(end, 32)) {
    fail("the zip64 end record speaks of a split archive");
  }
  Directory directory = classic;
  if (!merge(directory.count, kFull16, load_le<uint64_t>(end, 32)) ||
      !merge(directory.size, kFull32, load_le<uint64_t>(end, 40)) ||
      !merge(directory.offset, kFull32, load_le<uint64_t>(end, 48))) {
    fail("the zip64 end record contradicts the classic one");
  }
  return directory;
}

void ZipReader::read_directory(const Directory& directory) {
  const uint64_t end = directory.offset + directory.size;
  if (directory.count > directory.size / kCentralHeaderBytes) {
    fail(fmt::format("a directory of {} bytes cannot hold {} entries", directory.size,
                     directory.count));
  }
  uint64_t at = directory.offset;
  for (uint64_t i = 0; i < directory.count; ++i) {
    const CentralRecord record = read_central_record(at);
    at += record.record_bytes;
    if (at > end) fail(fmt::format("entry {} runs past the end of the directory", i));
    ZipEntry entry = make_entry(record, directory.offset);
    if (!index_.emplace(entry.name, entries_.size()).second) {
      fail(fmt::format("two entries named {}", printable(entry.name)));
    }
    entries_.push_back(std::move(entry));
  }
  if (at != end) {
    fail(fmt::format("{} entries end at byte {} of the directory, which ends at {}",
                     directory.count, at, end));
  }
}

ZipReader::CentralRecord ZipReader::read_central_record(uint64_t at) const {
  const auto fixed = slice(at, kCentralHeaderBytes, "a directory entry");
  if (load_le<uint32_t>(fixed, 0) != kCentralHeader)
    fail(fmt::format("no directory entry at byte {}", at));
  const uint64_t name_bytes = load_le<uint16_t>(fixed, 28);
  const uint64_t extra_bytes = load_le<uint16_t>(fixed, 30);
  const uint64_t comment_bytes = load_le<uint16_t>(fixed, 32);
  CentralRecord record;
  record.flags = load_le<uint16_t>(fixed, 8);
  record.method = load_le<uint16_t>(fixed, 10);
  record.crc32 = load_le<uint32_t>(fixed, 16);
  record.packed_size = load_le<uint32_t>(fixed, 20);
  record.size = load_le<uint32_t>(fixed, 24);
  record.offset = load_le<uint32_t>(fixed, 42);
  record.record_bytes = kCentralHeaderBytes + name_bytes + extra_bytes + comment_bytes;
  const auto whole = slice(at, record.record_bytes, "a directory entry");
  record.name = as_text(whole.subspan(kCentralHeaderBytes, name_bytes));
  apply_zip64(record, whole.subspan(kCentralHeaderBytes + name_bytes, extra_bytes));
  if (load_le<uint16_t>(fixed, 34) != 0) fail("an entry lies on another disk of a split archive");
  return record;
}

void ZipReader::apply_zip64(CentralRecord& record, std::span<const std::byte> extra) const {
  while (extra.size() >= 4) {
    const auto id = load_le<uint16_t>(extra, 0);
    const size_t length = load_le<uint16_t>(extra, 2);
    if (extra.size() - 4 < length) break;
    if (id == kZip64Extra) {
      // Only the saturated fields are there, in this order.
      auto fields = extra.subspan(4, length);
      for (uint64_t* field : {&record.size, &record.packed_size, &record.offset}) {
        if (*field != kFull32) continue;
        if (fields.size() < 8)
          fail(fmt::format("the zip64 sizes of {} are cut short", printable(record.name)));
        *field = load_le<uint64_t>(fields, 0);
        fields = fields.subspan(8);
      }
      return;
    }
    extra = extra.subspan(4 + length);
  }
}

ZipEntry ZipReader::make_entry(const CentralRecord& record, uint64_t directory_at) const {
  const std::string name = printable(record.name);
  if ((record.flags & kEncryptionFlags) != 0) {
    user_error("{}: entry {} is encrypted; unpack the archive with its password and save it again",
               source_, name);
  }
  if (record.method != 0 && record.method != 8) {
    user_error(
        "{}: entry {} uses compression method {}; only stored and deflate can be read, save it "
        "again "
        "with torch.save",
        source_, name, record.method);
  }
  const auto local = slice(record.offset, kLocalHeaderBytes, "the header of entry " + name);
  if (load_le<uint32_t>(local, 0) != kLocalHeader) {
    fail(fmt::format("no header of entry {} at byte {}", name, record.offset));
  }
  const uint64_t name_bytes = load_le<uint16_t>(local, 26);
  const uint64_t data_at =
      record.offset + kLocalHeaderBytes + name_bytes + load_le<uint16_t>(local, 28);
  const auto local_name = as_text(slice(record.offset + kLocalHeaderBytes, name_bytes, "a name"));
  if (local_name != record.name || load_le<uint16_t>(local, 8) != record.method) {
    fail(fmt::format("header and directory disagree about entry {}", name));
  }
  if (data_at > directory_at || directory_at - data_at < record.packed_size) {
    fail(fmt::format("entry {} ({} bytes at byte {}) runs into the directory at byte {}", name,
                     record.packed_size, data_at, directory_at));
  }
  const bool deflated = record.method == 8;
  const auto size = checked_narrow<int64_t>(record.size);
  if (!size || (!deflated && record.size != record.packed_size)) {
    fail(fmt::format("stored entry {} claims {} bytes and holds {}", name, record.size,
                     record.packed_size));
  }
  return {.name = std::string(record.name),
          .deflated = deflated,
          .crc32 = record.crc32,
          .size_bytes = *size,
          .header_offset = record.offset,
          .data = slice(data_at, record.packed_size, "entry " + name)};
}

void ZipReader::check_inflated_sizes() const {
  uint64_t total = 0;
  for (const ZipEntry& entry : entries_) {
    if (!entry.deflated) continue;
    if (static_cast<uint64_t>(entry.size_bytes) / kMaxDeflateRatio > entry.data.size()) {
      fail(fmt::format("entry {} claims {} bytes, more than {} deflated ones can give",
                       printable(entry.name), entry.size_bytes, entry.data.size()));
    }
    // Cannot wrap: each size is at most 1032 times a part of the archive.
    total += static_cast<uint64_t>(entry.size_bytes);
  }
  if (total > kMaxInflatedBytes) {
    user_error(
        "{}: its deflated entries would take {} bytes of memory; save it again with torch.save, "
        "which "
        "does not compress",
        source_, total);
  }
}

void ZipReader::check_overlaps() const {
  std::vector<const ZipEntry*> order;
  for (const ZipEntry& entry : entries_) order.push_back(&entry);
  std::sort(order.begin(), order.end(), [](const ZipEntry* a, const ZipEntry* b) {
    return a->header_offset < b->header_offset;
  });
  for (size_t i = 1; i < order.size(); ++i) {
    const auto end = static_cast<uint64_t>(order[i - 1]->data.data() - archive_.data()) +
                     order[i - 1]->data.size();
    if (order[i]->header_offset < end) {
      fail(fmt::format("entries {} and {} overlap", printable(order[i - 1]->name),
                       printable(order[i]->name)));
    }
  }
}

void ZipReader::verify(const ZipEntry& entry, std::span<const std::byte> content) const {
  if (!has_checksums_) return;
  const uint32_t found = formats::crc32(content);
  if (found == entry.crc32) return;
  fail(fmt::format("entry {} has CRC-32 {:08x} where the directory says {:08x}",
                   printable(entry.name), found, entry.crc32));
}

std::unique_ptr<std::byte[]> ZipReader::inflate(const ZipEntry& entry) const {
  const std::string name = printable(entry.name);
  const auto size = static_cast<size_t>(entry.size_bytes);
  auto content = std::make_unique_for_overwrite<std::byte[]>(size + 1);
  if (!inflate_exactly(entry.data, content.get(), size)) {
    fail(fmt::format("deflated entry {} does not give the {} bytes it claims", name, size));
  }
  verify(entry, {content.get(), size});
  return content;
}

}  // namespace rwkv::formats
