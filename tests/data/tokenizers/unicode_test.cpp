#include "data/tokenizers/unicode.h"

#include <gtest/gtest.h>

#include <string>

#include "data/tokenizers/gpt2_split.h"

namespace rwkv::data {
namespace {

using unicode::Kind;

TEST(UnicodeKind, IsThatOfTheTable) {
  EXPECT_EQ(unicode::kind(U'a'), Kind::kLetter);
  EXPECT_EQ(unicode::kind(0x4E00), Kind::kLetter);
  EXPECT_EQ(unicode::kind(U'7'), Kind::kNumber);
  EXPECT_EQ(unicode::kind(0x00BD), Kind::kNumber);  // one half
  EXPECT_EQ(unicode::kind(0x3000), Kind::kSpace);   // ideographic space
  EXPECT_EQ(unicode::kind(0x200B), Kind::kOther);   // zero width space is none
  EXPECT_EQ(unicode::kind(0x0301), Kind::kOther);   // a mark
  EXPECT_EQ(unicode::kind(0x10FFFF), Kind::kOther);
}

TEST(NormalFormC, ComposesReordersAndKeepsExclusions) {
  const auto is = [](const std::string& from, const std::string& to) {
    EXPECT_EQ(unicode::nfc(from), to) << from;
    EXPECT_EQ(unicode::nfc(to), to);
    if (from != to) {
      EXPECT_FALSE(unicode::surely_nfc(from)) << from;
    }
  };
  is("", "");
  is("plain, 123", "plain, 123");
  is("e\u0301", "\u00e9");
  is("\u212b \u2126", "\u00c5 \u03a9");  // Angstrom and Ohm signs
  is("a\u0316\u0301", "\u00e1\u0316");   // a lower mark does not block
  is("a\u0301\u0316", "\u00e1\u0316");   // and is sorted before
  is("a\u0300\u0301", "\u00e0\u0301");   // an equal one does
  is("\u01d6", "\u01d6");                // decomposes in two steps
  is("u\u0308\u0304", "\u01d6");
  is("\u0958", "\u0915\u093c");                                // excluded from composition
  is("\u1112\u1161\u11ab\u1100\u1173\u11af", "\ud55c\uae00");  // Hangul
  is("\uac00\u11a8", "\uac01");
  is("\uac01\u11a8", "\uac01\u11a8");  // has a trailing consonant already
  is("\u0301\u0301", "\u0301\u0301");  // no starter
  is("\U0002f81a", "\u51ac");
  EXPECT_TRUE(unicode::surely_nfc("caf\u00e9 \u4f60\u597d \U0001f600"));
}

TEST(NormalFormC, TakesTenMegabytesOfMarks) {
  std::string text = "a";
  while (text.size() < 10'000'000) text += "\u0301\u0316";
  const std::string once = unicode::nfc(text);
  EXPECT_EQ(unicode::nfc(once), once);
  EXPECT_EQ(once.substr(0, 4), "\u00e1\u0316");
}

/// The pieces of `text`, with | between them.
std::string pieces(const std::string& text) {
  std::string out;
  for (size_t at = 0; at < text.size();) {
    const size_t end = gpt2_piece_end(text, at);
    EXPECT_GT(end, at);
    out += (at == 0 ? "" : "|") + text.substr(at, end - at);
    at = end;
  }
  return out;
}

TEST(Gpt2Pieces, AreThoseOfThePattern) {
  EXPECT_EQ(pieces("Hello, world! 12 3a"), "Hello|,| world|!| 12| 3|a");
  EXPECT_EQ(pieces("I'm you're we'LL 'tis ''s 'x"), "I|'m| you|'re| we|'|LL| '|tis| ''|s| '|x");
  EXPECT_EQ(pieces("a  b"), "a| | b");
  EXPECT_EQ(pieces("a\n\nb \n c  "), "a|\n|\n|b| \n| c|  ");
  EXPECT_EQ(pieces("a\t\tb"), "a|\t|\t|b");
  EXPECT_EQ(pieces(" "), " ");
  EXPECT_EQ(pieces("'"), "'");
  EXPECT_EQ(pieces("\u4f60\u597d\uff0c \u00bd\u00b2 e\u0301"),
            "\u4f60\u597d|\uff0c| \u00bd\u00b2| e|\u0301");
  EXPECT_EQ(pieces("x\u3000\u3000y"), "x|\u3000|\u3000|y");
}

TEST(Gpt2Pieces, ACutBeforeWhiteSpaceChangesNothing) {
  const std::string text = "It's 25  spaces\n\n and' \n'll\u3000 end ";
  for (size_t length = 1; length <= text.size(); ++length) {
    const size_t cut = last_sure_gpt2_cut(std::string_view(text).substr(0, length));
    if (cut == 0) continue;
    EXPECT_EQ(pieces(text.substr(0, cut)) + "|" + pieces(text.substr(cut)), pieces(text)) << cut;
  }
  EXPECT_EQ(last_sure_gpt2_cut("two words"), 3U);
  EXPECT_EQ(last_sure_gpt2_cut(" \n one"), 0U);
  EXPECT_EQ(last_sure_gpt2_cut(""), 0U);
}

}  // namespace
}  // namespace rwkv::data
