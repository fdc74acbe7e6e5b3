#include "data/jsonl.h"

#include <string>
#include <vector>

#include "tests/data/test_files.h"

namespace rwkv::data {
namespace {

/// One line, and its text or a part of the message that refuses it.
struct Case {
  std::string what;
  std::string line;
  bool accepted;
  std::string wanted;
};

std::vector<Case> cases() {
  const std::string deep(100'000, '[');
  const std::string closed(100'000, ']');
  return {
      {"plain", R"({"text": "a b"})", true, "a b"},
      {"other keys", R"({"meta": {"text": "no", "n": [1, {"text": "no"}]}, "text": "yes"})", true,
       "yes"},
      {"other keys behind", R"({"text": "yes", "x": null, "y": [[["text"]]]})", true, "yes"},
      {"empty text", R"({"text": ""})", true, ""},
      {"bare string", R"("a line")", true, "a line"},
      {"list", R"({"text": ["a", "b", "c"]})", true, "a\n\nb\n\nc"},
      {"empty list", R"({"text": []})", true, ""},
      {"escapes", R"({"text": "\"\\\/\b\f\n\r\t\u00e9\u4f60"})", true,
       "\"\\/\b\f\n\r\t\u00e9\u4f60"},
      {"surrogate pair", R"({"text": "\ud83d\ude00"})", true, "\U0001f600"},
      {"NUL", R"({"text": "a\u0000b"})", true, std::string("a\0b", 3)},
      {"carriage return behind", "{\"text\": \"a\"}\r", true, "a"},
      {"blanks around", " \t{ \"text\" :\t\"a\" } ", true, "a"},
      {"raw UTF-8", "{\"text\": \"\xf0\x9f\x98\x80\"}", true, "\U0001f600"},
      {"key with an escape", R"({"te\u0078t": "a"})", true, "a"},
      {"half a pair", R"({"text": "\ud83d"})", false, "half a surrogate pair near its byte"},
      {"low half first", R"({"text": "\ude00\ud83d"})", false, "half a surrogate pair"},
      {"high twice", R"({"text": "\ud83d\ud83d"})", false, "half a surrogate pair"},
      {"half a pair elsewhere", R"({"meta": "\ud800", "text": "a"})", false,
       "half a surrogate pair"},
      {"ill-formed UTF-8", "{\"text\": \"\xff\"}", false, "ill-formed UTF-8"},
      {"overlong UTF-8", "{\"text\": \"\xc0\x80\"}", false, "ill-formed UTF-8"},
      {"UTF-8 of a surrogate", "{\"text\": \"\xed\xa0\x80\"}", false, "ill-formed UTF-8"},
      {"cut short", R"({"text": "a)", false, "no valid JSON near its byte"},
      {"cut after the value", R"({"text": "a")", false, "no valid JSON"},
      {"two objects", R"({"text": "a"} {"text": "b"})", false, "no valid JSON"},
      {"trailing comma", R"({"text": "a",})", false, "no valid JSON"},
      {"single quotes", "{'text': 'a'}", false, "no valid JSON"},
      {"NaN", R"({"text": "a", "x": NaN})", false, "no valid JSON"},
      {"raw newline in a string", "{\"text\": \"a\x01\"}", false, "no valid JSON"},
      {"raw NUL", std::string("{\"text\": \"a\0\"}", 13), false, "no valid JSON"},
      {"no key", R"({"content": "a"})", false, "there is no key 'text'"},
      {"key inside only", R"({"meta": {"text": "a"}})", false, "there is no key 'text'"},
      {"key twice", R"({"text": "a", "text": "b"})", false, "the key 'text' is there twice"},
      {"number", R"({"text": 1})", false, "'text' is no string"},
      {"null", R"({"text": null})", false, "'text' is no string"},
      {"object", R"({"text": {"a": "b"}})", false, "'text' is no string"},
      {"list of numbers", R"({"text": ["a", 1]})", false, "'text' is no string"},
      {"list of lists", R"({"text": [["a"]]})", false, "'text' is no string"},
      {"line is a list", R"(["a"])", false, "the line is a list"},
      {"line is a number", "7", false, "the line is no object"},
      {"no JSON", "just words", false, "no valid JSON"},
      {"deep and open", R"({"meta": )" + deep, false, "no valid JSON"},
      {"deep and closed", R"({"meta": )" + deep + closed + R"(, "text": "a"})", true, "a"},
  };
}

TEST(Jsonl, EachCaseIsReadOrRefusedAsWanted) {
  EXPECT_GE(cases().size(), 30U);
  for (const Case& c : cases()) {
    SCOPED_TRACE(c.what);
    if (c.accepted) {
      EXPECT_EQ(jsonl_text(c.line, "text", "corpus.jsonl", 7), c.wanted);
      continue;
    }
    const std::string message =
        testing::refusal([&] { jsonl_text(c.line, "text", "corpus.jsonl", 7); });
    EXPECT_TRUE(message.starts_with("corpus.jsonl: line 7: ")) << message;
    EXPECT_NE(message.find(c.wanted), std::string::npos) << message;
  }
}

TEST(Jsonl, AnotherKeyMayHoldTheText) {
  EXPECT_EQ(jsonl_text(R"({"text": "a", "content": "b"})", "content", "f", 1), "b");
  EXPECT_TRUE(is_blank_line(" \t\r"));
  EXPECT_FALSE(is_blank_line("{}"));
}

}  // namespace
}  // namespace rwkv::data
