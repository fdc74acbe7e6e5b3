// Damaged and unfit tokenizer files: each is refused with a message that names the place, beside
// controls that load.

#include <functional>
#include <string>
#include <vector>

#include "data/tokenizers/tokenizer_json.h"
#include "data/tokenizers/world_tokenizer.h"
#include "tests/data/test_files.h"
#include "tests/data/tokenizers/small_tokenizers.h"

namespace rwkv::data {
namespace {

using nlohmann::json;
using testing::small_bpe;
using testing::small_world;

struct Case {
  std::string what;
  std::string text;
  std::string wanted;  // part of the message; empty: it loads
};

/// A small tokenizer.json after `change`.
std::string changed(const std::function<void(json&)>& change) {
  json file = small_bpe({{"h", "e"}, {"l", "l"}});
  change(file);
  return file.dump();
}

std::vector<Case> json_cases() {
  const std::string good = changed([](json&) {});
  std::string twice = good;
  twice.insert(twice.find("\"!\":"), "\"!\":5,");
  return {
      {"control", good, ""},
      {"merges as lists", changed([](json& f) {
         f["model"]["merges"] = json::array({json::array({"h", "e"})});
       }),
       ""},
      {"no normalizer", changed([](json& f) { f["normalizer"] = nullptr; }), ""},
      {"sequence of NFC", changed([](json& f) {
         f["normalizer"] = {{"type", "Sequence"}, {"normalizers", {{{"type", "NFC"}}}}};
       }),
       ""},
      {"no added tokens", changed([](json& f) { f["added_tokens"] = json::array(); }), ""},
      {"no JSON", "{\"model\": ", "no valid JSON near byte"},
      {"cut in the middle", good.substr(0, good.size() / 2), "no valid JSON near byte"},
      {"ill-formed UTF-8", "{\"a\": \"\xff\"}", "no valid JSON near byte"},
      {"a list", "[]", "it is no JSON object"},
      {"nested deeply", std::string(50'000, '[') + std::string(50'000, ']'), "nested deeper"},
      {"token twice", twice, "has a key twice"},
      {"no model", changed([](json& f) { f.erase("model"); }), "it has no model"},
      {"WordPiece", changed([](json& f) { f["model"]["type"] = "WordPiece"; }), "not \"BPE\""},
      {"no type", changed([](json& f) { f["model"].erase("type"); }), "not \"BPE\""},
      {"dropout", changed([](json& f) { f["model"]["dropout"] = 0.1; }), "model.dropout is 0.1"},
      {"byte fallback", changed([](json& f) { f["model"]["byte_fallback"] = true; }),
       "byte_fallback"},
      {"ignored merges", changed([](json& f) { f["model"]["ignore_merges"] = true; }),
       "ignore_merges"},
      {"suffix", changed([](json& f) { f["model"]["end_of_word_suffix"] = "</w>"; }),
       "end_of_word_suffix"},
      {"lower case", changed([](json& f) {
         f["normalizer"] = {{"type", "Lowercase"}};
       }),
       "normalizer \"Lowercase\" is not supported"},
      {"prefix space", changed([](json& f) { f["pre_tokenizer"]["add_prefix_space"] = true; }),
       "add_prefix_space is true"},
      {"no pattern", changed([](json& f) { f["pre_tokenizer"]["use_regex"] = false; }),
       "use_regex is false"},
      {"other pre-tokenizer", changed([](json& f) {
         f["pre_tokenizer"] = {{"type", "Metaspace"}};
       }),
       "pre_tokenizer is \"Metaspace\", not ByteLevel"},
      {"no pre-tokenizer", changed([](json& f) { f.erase("pre_tokenizer"); }),
       "pre_tokenizer is null"},
      {"template", changed([](json& f) {
         f["post_processor"] = {{"type", "TemplateProcessing"}};
       }),
       "post_processor is \"TemplateProcessing\""},
      {"truncation", changed([](json& f) {
         f["truncation"] = {{"max_length", 5}};
       }),
       "asks for truncation"},
      {"no vocabulary", changed([](json& f) { f["model"]["vocab"] = json::array(); }),
       "no table of tokens"},
      {"negative id", changed([](json& f) { f["model"]["vocab"]["!"] = -1; }),
       "the id of '!' is -1"},
      {"id as text", changed([](json& f) { f["model"]["vocab"]["!"] = "1"; }),
       "the id of '!' is \"1\""},
      {"fractional id", changed([](json& f) { f["model"]["vocab"]["!"] = 1.5; }),
       "the id of '!' is 1.5"},
      {"huge id", changed([](json& f) { f["model"]["vocab"]["!"] = uint64_t{1} << 40; }),
       "the id of '!'"},
      {"id twice", changed([](json& f) { f["model"]["vocab"]["!"] = 40; }), "id 40 stands for"},
      {"a byte is missing", changed([](json& f) { f["model"]["vocab"].erase("!"); }),
       "single byte 0x21"},
      {"merge of unknown tokens", changed([](json& f) { f["model"]["merges"][0] = "zz e"; }),
       "merge 0 names 'zz'"},
      {"merge without result", changed([](json& f) { f["model"]["merges"][0] = "a b"; }),
       "merge 0 names 'ab'"},
      {"merge of three", changed([](json& f) { f["model"]["merges"][0] = "h e e"; }),
       "not two tokens"},
      {"merge twice", changed([](json& f) { f["model"]["merges"][1] = "h e"; }),
       "merges 0 and 1 are the same"},
      {"merges no list", changed([](json& f) { f["model"]["merges"] = "h e"; }),
       "model.merges is no list"},
      {"added token without content",
       changed([](json& f) { f["added_tokens"][1].erase("content"); }), "an added token is"},
      {"empty added token", changed([](json& f) { f["added_tokens"][1]["content"] = ""; }),
       "an added token is empty"},
      {"added token that strips", changed([](json& f) { f["added_tokens"][1]["lstrip"] = true; }),
       "lstrip is true"},
      {"added token twice", changed([](json& f) { f["added_tokens"][1]["content"] = "  "; }),
       "is there twice"},
      {"added token with a taken id", changed([](json& f) { f["added_tokens"][1]["id"] = 40; }),
       "id 40 stands for"},
  };
}

std::vector<Case> world_cases() {
  const std::string good = small_world({"ab"});
  const auto with = [&](const std::string& line) { return good + line; };
  std::string gap = good;
  gap.erase(gap.find("100 b"), gap.find("101 b") - gap.find("100 b"));
  return {
      {"control", good, ""},
      {"no newline at the end", good.substr(0, good.size() - 1), ""},
      {"text literal", with("258 'x y' 3\n"), ""},
      {"empty line", with("\n"), "line 258: there are no three fields"},
      {"two fields", with("258 'xy'\n"), "line 258: there are no three fields"},
      {"id no number", with("x 'xy' 2\n"), "the id 'x' is no whole number"},
      {"negative id", with("-1 'xy' 2\n"), "the id '-1'"},
      {"leading zero", with("0258 'xy' 2\n"), "the id '0258'"},
      {"huge id", with("99999999999999999999999 'xy' 2\n"), "no whole number"},
      {"gap", gap, "id 101 stands where 100 should"},
      {"id again", with("257 'xy' 2\n"), "id 257 stands where 258 should"},
      {"id zero", "0 'a' 1\n", "id 0 stands where 1 should"},
      {"wrong length", with("258 'xy' 3\n"), "the token has 2 bytes, the line says 3"},
      {"length no number", with("258 'xy' two\n"), "the length 'two'"},
      {"no quotes", with("258 xy 2\n"), "is no quoted literal"},
      {"open quote", with("258 'xy 2\n"), "is no quoted literal"},
      {"expression", with("258 'x'*2 2\n"), "is no quoted literal"},
      {"call", with("258 __import__('os').system('true') 2\n"), "is no quoted literal"},
      {"two literals", with("258 'x' 'y' 2\n"), "a quotation mark inside"},
      {"raw literal", with("258 r'xy' 2\n"), "is no quoted literal"},
      {"unknown escape", with("258 '\\q' 1\n"), "the escape '\\q' is not known"},
      {"octal escape", with("258 '\\101' 1\n"), "the escape '\\1' is not known"},
      {"open escape", with("258 b'\\x4' 1\n"), "hexadecimal digits"},
      {"backslash at the end", with("258 'x\\' 1\n"), "the escape '\\"},
      {"surrogate", with("258 '\\ud800' 3\n"), "U+D800 is no character"},
      {"beyond Unicode", with("258 '\\U00110000' 4\n"), "U+110000 is no character"},
      {"escape of text in bytes", with("258 b'\\u0041' 1\n"), "the escape '\\u'"},
      {"character in bytes", with("258 b'\xc3\xa9' 2\n"), "outside ASCII"},
      {"ill-formed UTF-8", with("258 '\xff' 1\n"), "is no UTF-8"},
      {"empty token", with("258 '' 0\n"), "the token is empty"},
      {"token twice", with("258 'ab' 2\n"), "ids 257 and 258 are the same token 'ab'"},
      {"a byte is missing", "1 'a' 1\n2 'b' 1\n", "single byte 0x00"},
      {"too long", with("258 '" + std::string(5000, 'x') + "' 5000\n"), "longer than 4096 bytes"},
  };
}

void check(const std::vector<Case>& cases, const std::function<void(const std::string&)>& read) {
  for (const Case& c : cases) {
    SCOPED_TRACE(c.what);
    const std::string message = testing::refusal([&] { read(c.text); });
    if (c.wanted.empty()) {
      EXPECT_EQ(message, "");
      continue;
    }
    EXPECT_TRUE(message.starts_with("file: ")) << message;
    EXPECT_NE(message.find(c.wanted), std::string::npos) << message;
  }
}

TEST(TokenizerFiles, EachTokenizerJsonLoadsOrIsRefusedAsWanted) {
  EXPECT_GE(json_cases().size(), 24U);
  check(json_cases(), [](const std::string& text) { parse_tokenizer_json(text, "file"); });
}

TEST(TokenizerFiles, EachWorldVocabularyLoadsOrIsRefusedAsWanted) {
  EXPECT_GE(world_cases().size(), 24U);
  check(world_cases(), [](const std::string& text) { parse_world_vocabulary(text, "file"); });
}

}  // namespace
}  // namespace rwkv::data
