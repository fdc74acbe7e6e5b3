#include "trainer/event_file.h"

#include <bit>
#include <cmath>
#include <map>
#include <optional>

#include "tests/data/test_files.h"

namespace rwkv::trainer {
namespace {

namespace fs = std::filesystem;

// A decoder of its own, from the formats' descriptions: it shares no line with the writer, not even
// the checksum.

uint32_t slow_masked_crc32c(std::string_view bytes) {
  uint32_t crc = 0xffffffff;
  for (const char c : bytes) {
    crc ^= static_cast<unsigned char>(c);
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) != 0 ? 0x82f63b78U : 0U);
  }
  crc = ~crc;
  return ((crc >> 15) | (crc << 17)) + 0xa282ead8U;
}

uint64_t little_endian(std::string_view bytes) {
  uint64_t value = 0;
  for (size_t i = bytes.size(); i > 0; --i) {
    value = value << 8 | static_cast<unsigned char>(bytes[i - 1]);
  }
  return value;
}

std::vector<std::string> records(std::string_view file) {
  std::vector<std::string> out;
  while (!file.empty()) {
    if (file.size() < 16) throw std::runtime_error("cut off");
    const auto length = static_cast<size_t>(little_endian(file.substr(0, 8)));
    if (little_endian(file.substr(8, 4)) != slow_masked_crc32c(file.substr(0, 8)) ||
        file.size() < length + 16 ||
        little_endian(file.substr(12 + length, 4)) != slow_masked_crc32c(file.substr(12, length))) {
      throw std::runtime_error("damaged record");
    }
    out.emplace_back(file.substr(12, length));
    file.remove_prefix(length + 16);
  }
  return out;
}

struct Field {
  uint64_t number = 0;  // of a varint or fixed field
  std::string bytes;    // of a length-delimited one
};

/// The fields of a protocol buffer by number.
std::multimap<int, Field> fields(std::string_view message) {
  std::multimap<int, Field> out;
  const auto varint = [&] {
    uint64_t value = 0;
    for (int shift = 0;; shift += 7) {
      const auto byte = static_cast<unsigned char>(message.at(0));
      message.remove_prefix(1);
      value |= static_cast<uint64_t>(byte & 0x7f) << shift;
      if (byte < 0x80) return value;
    }
  };
  const auto take = [&](size_t n) {
    if (message.size() < n) throw std::runtime_error("message cut off");
    const std::string bytes(message.substr(0, n));
    message.remove_prefix(n);
    return bytes;
  };
  while (!message.empty()) {
    const uint64_t tag = varint();
    Field field;
    switch (tag & 7) {
      case 0:
        field.number = varint();
        break;
      case 1:
        field.number = little_endian(take(8));
        break;
      case 2:
        field.bytes = take(static_cast<size_t>(varint()));
        break;
      case 5:
        field.number = little_endian(take(4));
        break;
      default:
        throw std::runtime_error("unknown wire type");
    }
    out.emplace(static_cast<int>(tag >> 3), field);
  }
  return out;
}

const Field& only(const std::multimap<int, Field>& message, int number) {
  EXPECT_EQ(message.count(number), 1U) << "field " << number;
  return message.find(number)->second;
}

class EventFiles : public testing::FilesTest {};

TEST_F(EventFiles, AnIndependentDecoderReadsEverythingBack) {
  EventFile file(folder_, 301);
  const std::vector<std::pair<std::string, double>> values = {
      {"train/loss", 1.5}, {"train/lr", 3e-4}, {"train/odd", std::nan("")}, {"train/neg", -2.0}};
  file.scalars(301, values);
  file.scalars(int64_t{1} << 40, {{"train/loss", 1e30}});
  file.text(400, "sample/text", "one\ntwo \xff\x01");

  const auto events = records(testing::read_bytes(file.path()));
  ASSERT_EQ(events.size(), 5U);
  EXPECT_EQ(only(fields(events[0]), 3).bytes, "brain.Event:2");

  const auto start = fields(events[1]);
  EXPECT_EQ(only(start, 2).number, 301U);
  EXPECT_EQ(only(fields(only(start, 7).bytes), 1).number, 1U);  // SessionLog.START
  EXPECT_GT(std::bit_cast<double>(only(start, 1).number), 1.7e9);

  const auto scalars = fields(only(fields(events[2]), 5).bytes);
  ASSERT_EQ(scalars.count(1), values.size());
  auto entry = scalars.begin();
  for (const auto& [name, value] : values) {
    const auto parsed = fields(entry->second.bytes);
    EXPECT_EQ(only(parsed, 1).bytes, name);
    const auto read = std::bit_cast<float>(static_cast<uint32_t>(only(parsed, 2).number));
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(read));
    } else {
      EXPECT_EQ(read, static_cast<float>(value));
    }
    ++entry;
  }
  EXPECT_EQ(only(fields(events[3]), 2).number, uint64_t{1} << 40);
}

TEST_F(EventFiles, ATextIsAStringTensorOfTheTextPlugin) {
  EventFile file(folder_, 1);
  file.text(7, "sample/text", "one\ntwo \xff\x01");
  const auto events = records(testing::read_bytes(file.path()));
  const auto event = fields(events.at(2));
  EXPECT_EQ(only(event, 2).number, 7U);
  const auto value = fields(only(fields(only(event, 5).bytes), 1).bytes);
  EXPECT_EQ(only(value, 1).bytes, "sample/text");
  const auto metadata = fields(only(value, 9).bytes);
  EXPECT_EQ(only(fields(only(metadata, 1).bytes), 1).bytes, "text");
  const auto tensor = fields(only(value, 8).bytes);
  EXPECT_EQ(only(tensor, 1).number, 7U);  // DT_STRING
  EXPECT_EQ(only(tensor, 8).bytes, "    one\n    two \xef\xbf\xbd\xe2\x90\x81");
}

TEST_F(EventFiles, NamesSortInTheOrderOfCreationEvenWithinASecond) {
  write("events.out.tfevents.4000000000.elsewhere.1.0", "");  // a clock that was ahead
  const EventFile first(folder_, 1);
  const EventFile second(folder_, 2);
  EXPECT_LT(folder_ / "events.out.tfevents.4000000000.elsewhere.1.0", first.path());
  EXPECT_LT(first.path(), second.path());
}

TEST_F(EventFiles, AFolderThatCannotBeWrittenIsAUserError) {
  EXPECT_REFUSED(EventFile(folder_ / "absent", 1), "train.tensorboard");
}

}  // namespace
}  // namespace rwkv::trainer
