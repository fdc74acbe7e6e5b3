#include "trainer/event_file.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cctype>
#include <charconv>
#include <chrono>
#include <span>

#include "data/base/crc32c.h"
#include "data/base/error.h"
#include "trainer/report/utf8.h"

namespace rwkv::trainer {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kPrefix = "events.out.tfevents.";

// Numbers of fields in event.proto, summary.proto and tensor.proto.
constexpr int kEventWallTime = 1;
constexpr int kEventStep = 2;
constexpr int kEventFileVersion = 3;
constexpr int kEventSummary = 5;
constexpr int kEventSessionLog = 7;
constexpr int kSessionLogStatus = 1;
constexpr int kSummaryValue = 1;
constexpr int kValueTag = 1;
constexpr int kValueSimpleValue = 2;
constexpr int kValueTensor = 8;
constexpr int kValueMetadata = 9;
constexpr int kMetadataPluginData = 1;
constexpr int kMetadataDataClass = 4;
constexpr int kPluginDataName = 1;
constexpr int kTensorDtype = 1;
constexpr int kTensorShape = 2;
constexpr int kTensorStringValue = 8;
constexpr int kShapeDim = 2;
constexpr int kDimSize = 1;

constexpr uint64_t kSessionStart = 1;     // SessionLog.START
constexpr uint64_t kDataClassTensor = 2;  // DATA_CLASS_TENSOR
constexpr uint64_t kDtypeString = 7;      // DT_STRING

template <typename T>
void append_little_endian(std::string& out, T value) {
  for (size_t i = 0; i < sizeof(T); ++i) out += static_cast<char>((value >> (8 * i)) & 0xff);
}

/// A protocol buffer in the making: fields in the wire format.
class Message {
 public:
  Message& add(int field, uint64_t value) {
    append_tag(field, 0);
    append_varint(value);
    return *this;
  }
  Message& add(int field, double value) {
    append_tag(field, 1);
    append_little_endian(bytes_, std::bit_cast<uint64_t>(value));
    return *this;
  }
  Message& add(int field, float value) {
    append_tag(field, 5);
    append_little_endian(bytes_, std::bit_cast<uint32_t>(value));
    return *this;
  }
  Message& add(int field, std::string_view bytes) {
    append_tag(field, 2);
    append_varint(bytes.size());
    bytes_ += bytes;
    return *this;
  }
  Message& add(int field, const Message& message) { return add(field, message.bytes()); }

  [[nodiscard]] std::string_view bytes() const { return bytes_; }

 private:
  void append_tag(int field, uint64_t wire_type) {
    append_varint(static_cast<uint64_t>(field) << 3 | wire_type);
  }
  void append_varint(uint64_t value) {
    for (; value >= 0x80; value >>= 7) bytes_ += static_cast<char>(value | 0x80);
    bytes_ += static_cast<char>(value);
  }

  std::string bytes_;
};

/// TFRecord stores checksums rotated and shifted, so that a checksum over data that holds checksums
/// stays useful.
uint32_t masked_crc32c(std::string_view bytes) {
  const uint32_t crc = crc32c(std::as_bytes(std::span(bytes.data(), bytes.size())));
  return std::rotr(crc, 15) + 0xa282ead8U;
}

std::string record(std::string_view payload) {
  std::string out;
  append_little_endian(out, static_cast<uint64_t>(payload.size()));
  append_little_endian(out, masked_crc32c(out));
  out += payload;
  append_little_endian(out, masked_crc32c(payload));
  return out;
}

double wall_time() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

std::string host_name() {
  std::array<char, 256> name{};
  if (::gethostname(name.data(), name.size() - 1) != 0) return "localhost";
  std::string host(name.data());
  std::erase_if(host, [](unsigned char c) { return c != '-' && std::isalnum(c) == 0; });
  return host.empty() ? "localhost" : host;
}

/// The seconds for a new file's name. TensorBoard reads files in the order of their names, so they
/// are later than those of every file that is there, even when the clock was set back.
int64_t seconds_for_name(const fs::path& folder) {
  auto seconds = static_cast<int64_t>(wall_time());
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with(kPrefix)) continue;
    int64_t other = 0;
    std::from_chars(name.data() + kPrefix.size(), name.data() + name.size(), other);
    constexpr int64_t kTenDigits = 9'999'999'999;
    if (other < kTenDigits) seconds = std::max(seconds, other + 1);
  }
  return seconds;
}

}  // namespace

EventFile::EventFile(const fs::path& folder, int64_t first_step)
    : path_(folder / fmt::format("{}{:010}.{}.{}.0", kPrefix, seconds_for_name(folder), host_name(),
                                 ::getpid())),
      out_(path_, std::ios::binary) {
  write_event(0, kEventFileVersion, "brain.Event:2");
  const Message start = Message().add(kSessionLogStatus, kSessionStart);
  write_event(first_step, kEventSessionLog, start.bytes());
}

void EventFile::scalars(int64_t step, const std::vector<std::pair<std::string, double>>& values) {
  Message summary;
  for (const auto& [name, value] : values) {
    summary.add(kSummaryValue,
                Message().add(kValueTag, name).add(kValueSimpleValue, static_cast<float>(value)));
  }
  write_event(step, kEventSummary, summary.bytes());
}

void EventFile::text(int64_t step, std::string_view name, std::string_view text) {
  std::string code = "    ";  // four spaces: Markdown's code
  for (const char c : report::clean_utf8(text)) {
    code += c;
    if (c == '\n') code += "    ";
  }
  const Message shape = Message().add(kShapeDim, Message().add(kDimSize, static_cast<uint64_t>(1)));
  const Message tensor = Message()
                             .add(kTensorDtype, kDtypeString)
                             .add(kTensorShape, shape)
                             .add(kTensorStringValue, code);
  const Message metadata =
      Message()
          .add(kMetadataPluginData, Message().add(kPluginDataName, std::string_view("text")))
          .add(kMetadataDataClass, kDataClassTensor);
  const Message value =
      Message().add(kValueTag, name).add(kValueTensor, tensor).add(kValueMetadata, metadata);
  write_event(step, kEventSummary, Message().add(kSummaryValue, value).bytes());
}

void EventFile::write_event(int64_t step, int field, std::string_view payload) {
  const Message event = Message()
                            .add(kEventWallTime, wall_time())
                            .add(kEventStep, static_cast<uint64_t>(step))
                            .add(field, payload);
  out_ << record(event.bytes()) << std::flush;
  if (!out_) {
    user_error("cannot write {}; free space, or set train.tensorboard: false",
               printable(path_.string()));
  }
}

}  // namespace rwkv::trainer
