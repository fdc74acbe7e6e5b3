#include "data/text_dataset.h"

#include <cstdint>
#include <stdexcept>
#include <vector>

#include "tests/data/test_files.h"

namespace rwkv::data {
namespace {

using testing::as_bytes;
using testing::refusal;
using Ids = std::vector<int64_t>;

/// All characters of `bytes` after newline translation.
std::u32string read_all(std::string_view bytes, TextEncoding encoding = TextEncoding::kUtf8) {
  std::u32string out;
  for (size_t at = 0; at < bytes.size();) {
    out += next_character(as_bytes(bytes), encoding, at, "text");
  }
  return out;
}

CharVocab vocab_of(std::string_view text) {
  return CharVocab::from_text(as_bytes(text), TextEncoding::kUtf8, "text");
}

CharVocab parse(std::string_view json) { return CharVocab::parse(as_bytes(json), "vocab.json"); }

TEST(NextCharacter, ReadsEveryLengthAndTranslatesNewlines) {
  EXPECT_EQ(read_all("a\xc3\xa9\xe4\xbd\xa0\xf0\x9f\x98\x80"), U"a\u00e9\u4f60\U0001f600");
  EXPECT_EQ(read_all("1\r\n2\r3\n4\r\r\n5\r"), U"1\n2\n3\n4\n\n5\n");
  EXPECT_EQ(read_all("\xf4\x8f\xbf\xbf\xef\xbf\xbf\xed\x9f\xbf"), U"\U0010ffff\uffff\ud7ff");
  EXPECT_EQ(read_all(std::string_view("\xff\xfe\x41\0\r\0\n\0\x3d\xd8\0\xde", 12),
                     TextEncoding::kUtf16le),
            U"\ufeffA\n\U0001f600");
}

TEST(NextCharacter, MalformedTextIsRefusedWithItsByte) {
  const std::vector<std::pair<std::string, std::string>> cases{
      {"ab\x80", "byte 2 (0x80)"},
      {"\xc0\x80", "no UTF-8 character begins"},
      {"\xc1\xbf", "0xc1"},
      {"\xe0\x80\x80", "overlong"},
      {"\xf0\x80\x80\x80", "overlong"},
      {"\xed\xa0\x80", "surrogate"},
      {"\xf4\x90\x80\x80", "U+10FFFF"},
      {"\xf5\x80\x80\x80", "0xf5"},
      {"\xff", "0xff"},
      {"abc\xe4\xbd", "byte 3 (0xe4): the text ends"},
      {"\xe4\xbd"
       "A",
       "cut short"},
      {"\xc3", "ends inside"},
  };
  for (const auto& [text, fragment] : cases) EXPECT_REFUSED(read_all(text), fragment);
  const auto utf16 = [](std::string_view text) { read_all(text, TextEncoding::kUtf16le); };
  EXPECT_REFUSED(utf16("A"), "ends inside a UTF-16 unit");
  EXPECT_REFUSED(utf16(std::string_view("A\0\0\xdc", 4)), "byte 2: a low surrogate");
  EXPECT_REFUSED(utf16(std::string_view("\0\xd8", 2)), "a high surrogate");
  EXPECT_REFUSED(utf16(std::string_view("\0\xd8\0\xd8", 4)), "a high surrogate");
}

TEST(Utf8Boundary, MovesForwardToTheNextCharacter) {
  const auto text = as_bytes("a\xe4\xbd\xa0z");
  EXPECT_EQ(utf8_boundary(text, 1), 1);
  EXPECT_EQ(utf8_boundary(text, 2), 4);
  EXPECT_EQ(utf8_boundary(text, 3), 4);
  EXPECT_EQ(utf8_boundary(text, 99), 5);
  EXPECT_EQ(characters_before(text, TextEncoding::kUtf8, 2, "text"), 2);
  EXPECT_EQ(characters_before(text, TextEncoding::kUtf8, 4, "text"), 2);
  EXPECT_EQ(characters_before(text, TextEncoding::kUtf8, 99, "text"), 3);
}

TEST(CharVocab, NumbersCodePointsInOrder) {
  // U+1F600 comes after U+FB01, though its UTF-16 units would not.
  const CharVocab vocab = vocab_of(
      "\xf0\x9f\x98\x80\xef\xac\x81"
      "ba\r");
  EXPECT_EQ(std::u32string(vocab.characters().begin(), vocab.characters().end()),
            U"\nab\ufb01\U0001f600");
  EXPECT_EQ(vocab.id_of(U'b'), 2);
  EXPECT_EQ(vocab.id_of(U'c'), std::nullopt);
  EXPECT_EQ(vocab.id_of(0x10FFFF), std::nullopt);
  EXPECT_REFUSED(vocab_of(""), "is empty");
}

TEST(CharVocab, EncodesAndDecodesWithAndWithoutAFallback) {
  const CharVocab vocab = vocab_of("hello \xc3\xa9");
  const std::string text = "hole\xc3\xa9 leh";
  EXPECT_EQ(vocab.decode(vocab.encode(text)), text);
  EXPECT_REFUSED(vocab.encode("hex"), "byte 2: U+0078 is not in the vocabulary");
  EXPECT_EQ(vocab.decode(vocab.encode("hex!", U' ')), "he  ");
  EXPECT_REFUSED(vocab.encode("h", U'?'), "U+003F, is itself not");
  EXPECT_REFUSED(vocab.decode(Ids{0, 6}), "id 6 is outside");
  EXPECT_REFUSED(vocab.decode(Ids{-1}), "id -1");
  EXPECT_EQ(vocab.decode(Ids{}), "");
}

TEST(CharVocab, JsonComesBackInEveryEncoding) {
  std::string all;
  for (char32_t c = 0; c < 0x120; ++c) append_utf8(all, c);
  for (const char32_t c : {U'\uffff', U'\U0001f600', U'\U0010ffff'}) append_utf8(all, c);
  const CharVocab vocab = vocab_of(all);
  const auto same = [&](std::string_view json) {
    return std::ranges::equal(parse(json).characters(), vocab.characters());
  };
  EXPECT_TRUE(same(vocab.to_json(TextEncoding::kUtf8)));
  std::string utf16 = vocab.to_json(TextEncoding::kUtf16le);
  EXPECT_TRUE(utf16.starts_with("\xff\xfe"));
  EXPECT_TRUE(same(utf16));
  for (size_t i = 0; i < utf16.size(); i += 2) std::swap(utf16[i], utf16[i + 1]);
  EXPECT_TRUE(same(utf16)) << "big endian";
  EXPECT_EQ(
      vocab_of("\x01\t\"\\\x7f").to_json(TextEncoding::kUtf8),
      "{\"0\": \"\\u0001\", \"1\": \"\\t\", \"2\": \"\\\"\", \"3\": \"\\\\\", \"4\": \"\x7f\"}");
}

TEST(CharVocab, JsonKeepsIdsThatDoNotFollowCodePoints) {
  const CharVocab vocab = parse(R"({"1": "a", "0": "b", "2": "\r"})");
  EXPECT_EQ(vocab.encode("ba\r"), (Ids{0, 1, 2}));
}

TEST(CharVocab, MalformedJsonIsRefusedWithItsReason) {
  EXPECT_REFUSED(parse(""), "no valid JSON");
  EXPECT_REFUSED(parse("{}"), "the vocabulary is empty");
  EXPECT_REFUSED(parse(R"({"0": "a", "2": "b"})"), "id 1 is missing");
  EXPECT_REFUSED(parse(R"({"0": "a", "0": "b"})"), "id 0 is there twice");
  EXPECT_REFUSED(parse(R"({"0": "a", "1": "a"})"), "U+0061 has two ids");
  EXPECT_REFUSED(parse(R"({"0": "ab"})"), "not one character");
  EXPECT_REFUSED(parse(R"({"0": ""})"), "not one character");
  EXPECT_REFUSED(parse(R"({"0": 1})"), "no string");
  EXPECT_REFUSED(parse(R"({"0": {"1": "a"}})"), "an object inside");
  EXPECT_REFUSED(parse(R"(["a"])"), "no string");
  EXPECT_REFUSED(parse(R"("a")"), "not one character");
  EXPECT_REFUSED(parse(R"({"a": "a"})"), "the key 'a' is no id");
  EXPECT_REFUSED(parse(R"({"00": "a"})"), "is no id");
  EXPECT_REFUSED(parse(R"({"-1": "a"})"), "is no id");
  EXPECT_REFUSED(parse(R"({"99999999999": "a"})"), "is no id");
  EXPECT_REFUSED(parse(R"({"4294967295": "a"})"), "id 0 is missing");
  EXPECT_REFUSED(parse("{\"0\": \"\xff\"}"), "no valid JSON");
  EXPECT_REFUSED(parse(R"({"0": "\ud800"})"), "no valid JSON");
  EXPECT_REFUSED(parse(R"({"0": "a"} x)"), "no valid JSON");
  EXPECT_REFUSED(parse(std::string_view("\xff\xfe{\0\"", 5)), "ends inside a UTF-16 unit");
  EXPECT_REFUSED(parse(std::string(100'000, '[')), "no string");
}

TEST(CharTokens, TakeTwoBytesWhereTheVocabularyAllows) {
  const CharVocab small = vocab_of("abc");
  const CharTokens tokens(as_bytes("cab\r\n"), TextEncoding::kUtf8, vocab_of("abc\n"), "text");
  Ids ids(4);
  tokens.view().read(0, ids);
  EXPECT_EQ(ids, (Ids{3, 1, 2, 0}));
  EXPECT_EQ(tokens.view().type, TokenType::kUint16);
  EXPECT_REFUSED(CharTokens(as_bytes("abx"), TextEncoding::kUtf8, small, "text"),
                 "byte 2: U+0078 is not in the vocabulary");

  std::string many;
  for (char32_t c = 0x10000; c < 0x10000 + 70000; ++c) append_utf8(many, c);
  const CharTokens wide(as_bytes(many), TextEncoding::kUtf8, vocab_of(many), "text");
  EXPECT_EQ(wide.view().type, TokenType::kUint32);
  Ids last(1);
  wide.view().read(69999, last);
  EXPECT_EQ(last, Ids{69999});
}

}  // namespace
}  // namespace rwkv::data
