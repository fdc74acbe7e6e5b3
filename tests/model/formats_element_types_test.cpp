#include <gtest/gtest.h>
#include <zlib.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "model/formats/crc32.h"
#include "model/formats/element_types.h"
#include "tests/model/formats_support.h"

namespace rwkv::formats::testing {
namespace {

template <typename To, typename From>
std::vector<To> converted(const std::vector<From>& from, DType from_dtype, DType to_dtype,
                          int64_t* overflows = nullptr) {
  std::vector<To> to(from.size());
  const int64_t count = convert_elements(std::as_bytes(std::span(from)), from_dtype,
                                         std::as_writable_bytes(std::span(to)), to_dtype);
  if (overflows != nullptr) *overflows = count;
  return to;
}

/// The value of fp16 bits from its definition: sign, 5 bits of exponent, 10 of fraction.
double half_value(uint16_t bits) {
  const int exponent = (bits >> 10) & 31;
  const int fraction = bits & 1023;
  const double magnitude =
      exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024 + fraction, exponent - 25);
  return (bits & 0x8000) != 0 ? -magnitude : magnitude;
}

TEST(ElementTypes, EveryHalfIsReadExactlyAndWrittenBack) {
  std::vector<uint16_t> all(65536);
  for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<uint16_t>(i);
  const auto floats = converted<float>(all, DType::f16, DType::f32);
  const auto back = converted<uint16_t>(floats, DType::f32, DType::f16);
  for (size_t i = 0; i < all.size(); ++i) {
    if ((i & 0x7c00) != 0x7c00) {
      ASSERT_EQ(static_cast<double>(floats[i]), half_value(all[i])) << i;
      ASSERT_EQ(back[i], all[i]) << i;
    } else if ((i & 0x3ff) == 0) {
      ASSERT_TRUE(std::isinf(floats[i])) << i;
      ASSERT_EQ(back[i], all[i]) << i;
    } else {
      ASSERT_TRUE(std::isnan(floats[i])) << i;
      ASSERT_EQ(back[i] & 0x7c00, 0x7c00) << i;
      ASSERT_NE(back[i] & 0x3ff, 0) << i;
    }
  }
}

TEST(ElementTypes, HalvesRoundToNearestEven) {
  // Between two neighbours: below, at and above the middle.
  std::vector<float> values;
  std::vector<uint16_t> wanted;
  for (uint16_t bits = 0; bits < 0x7bff; bits = static_cast<uint16_t>(bits + 7)) {
    const double low = half_value(bits);
    const double high = half_value(static_cast<uint16_t>(bits + 1));
    const auto middle = static_cast<float>((low + high) / 2);
    values.insert(values.end(),
                  {std::nextafter(middle, 0.0F), middle, std::nextafter(middle, 1e9F)});
    const auto even = static_cast<uint16_t>(bits + (bits & 1));
    wanted.insert(wanted.end(), {bits, even, static_cast<uint16_t>(bits + 1)});
  }
  EXPECT_EQ(converted<uint16_t>(values, DType::f32, DType::f16), wanted);
}

TEST(ElementTypes, BrainFloatsRoundToNearestEven) {
  const std::vector<uint32_t> bits = {0x3f800000, 0x3f808000, 0x3f818000, 0x3f808001, 0x3f807fff,
                                      0x7f800000, 0xff800000, 0x7fc00000, 0x7f800001, 0x80000000};
  const std::vector<uint16_t> wanted = {0x3f80, 0x3f80, 0x3f82, 0x3f81, 0x3f80,
                                        0x7f80, 0xff80, 0x7fc0, 0x7fc0, 0x8000};
  EXPECT_EQ(converted<uint16_t>(bits, DType::f32, DType::bf16), wanted);
  std::vector<uint16_t> all(65536);
  for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<uint16_t>(i);
  const auto floats = converted<uint32_t>(all, DType::bf16, DType::f32);
  for (size_t i = 0; i < all.size(); ++i) ASSERT_EQ(floats[i], i << 16U);
}

TEST(ElementTypes, OverflowsAreCounted) {
  const std::vector<float> values = {65504, 65519.99F, 65520, -1e6F, INFINITY, NAN, 3.39e38F};
  int64_t overflows = 0;
  const auto half = converted<uint16_t>(values, DType::f32, DType::f16, &overflows);
  EXPECT_EQ(overflows, 3);
  EXPECT_EQ(half[1], 0x7bff);
  EXPECT_EQ(half[3], 0xfc00);
  (void)converted<uint16_t>(values, DType::f32, DType::bf16, &overflows);
  EXPECT_EQ(overflows, 0);
  (void)converted<uint16_t>(std::vector<float>{std::numeric_limits<float>::max()}, DType::f32,
                            DType::bf16, &overflows);
  EXPECT_EQ(overflows, 1);
}

TEST(ElementTypes, WholeNumbersAndDoublesBecomeFloats) {
  EXPECT_EQ(converted<float>(std::vector<int64_t>{-3, 1LL << 40}, DType::i64, DType::f32),
            (std::vector<float>{-3, 1099511627776.0F}));
  EXPECT_EQ(converted<float>(std::vector<uint8_t>{0, 1, 255}, DType::boolean, DType::f32),
            (std::vector<float>{0, 1, 1}));
  EXPECT_EQ(converted<float>(std::vector<int8_t>{-128, 127}, DType::i8, DType::f32),
            (std::vector<float>{-128, 127}));
  EXPECT_EQ(converted<float>(std::vector<double>{0.1}, DType::f64, DType::f32),
            (std::vector<float>{0.1F}));
}

TEST(ElementTypes, AnyAddressWillDo) {
  std::string from("x\0\0\x80\x3f\0\0\0\x40", 9);  // 1 and 2, one byte off
  std::string to(5, '\0');
  convert_elements(std::as_bytes(std::span(from)).subspan(1), DType::f32,
                   std::as_writable_bytes(std::span(to)).subspan(1), DType::bf16);
  EXPECT_EQ(to, std::string("\0\x80\x3f\0\x40", 5));
}

TEST(ElementTypes, LongTensorsCrossTheBlocks) {
  std::vector<float> values(10'000);
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i);
  const auto half = converted<uint16_t>(values, DType::f32, DType::f16);
  for (size_t i = 0; i <= 2048; ++i) ASSERT_EQ(half_value(half[i]), static_cast<double>(i));
  EXPECT_EQ(half_value(half[9999]), 10000);
}

TEST(Crc32, EqualsZlibsForEveryLengthAndAddress) {
  std::vector<std::byte> bytes(3000);
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::byte>(i * i * 7 + i / 5);
  const auto expected = [&](size_t begin, size_t size, uint32_t crc) {
    return static_cast<uint32_t>(
        ::crc32_z(crc, reinterpret_cast<const Bytef*>(bytes.data() + begin), size));
  };
  for (size_t begin = 0; begin < 17; ++begin) {
    for (size_t size = 0; size < 400; ++size) {
      const auto part = std::span(bytes).subspan(begin, size);
      ASSERT_EQ(crc32(part, 0x12345678), expected(begin, size, 0x12345678)) << begin << " " << size;
    }
  }
  EXPECT_EQ(crc32(bytes), expected(0, bytes.size(), 0));
  const std::string check = "123456789";
  EXPECT_EQ(crc32(std::as_bytes(std::span(check))), 0xCBF43926U);
}

TEST(ElementTypes, MisuseIsALogicError) {
  const std::vector<float> two(2);
  EXPECT_THROW(converted<uint16_t>(two, DType::f32, DType::i16), std::logic_error);
  EXPECT_THROW(converted<float>(std::vector<uint8_t>{1}, DType::f8_e4m3, DType::f32),
               std::logic_error);
  std::vector<float> one(1);
  EXPECT_THROW(convert_elements(std::as_bytes(std::span(two)), DType::f32,
                                std::as_writable_bytes(std::span(one)), DType::f32),
               std::logic_error);
}

}  // namespace
}  // namespace rwkv::formats::testing
