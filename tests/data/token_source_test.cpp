#include "data/token_source.h"

#include <cstdint>
#include <limits>
#include <stdexcept>
#include <vector>

#include "data/indexed_dataset_builder.h"
#include "data/npy.h"
#include "data/text_dataset.h"
#include "tests/data/test_files.h"

namespace rwkv::data {
namespace {

using Ids = std::vector<int64_t>;

class TokenSourceTest : public testing::FilesTest {
 protected:
  void write_pair(const std::string& name, TokenType type, const Ids& tokens) const {
    IndexedDatasetBuilder builder(folder_ / name, type);
    builder.add_sequence(tokens);
    builder.end_document();
    builder.finish();
  }
  [[nodiscard]] std::string path(const std::string& name) const {
    return (folder_ / name).string();
  }
};

Ids read_all(const TokenSource& source) {
  Ids ids(static_cast<size_t>(source.size()));
  source.read(0, ids);
  return ids;
}

TEST_F(TokenSourceTest, BytesAreTokens) {
  write("text", std::string_view("a\xff\0z", 4));
  const auto source = open_tokens({.path = path("text")});
  EXPECT_EQ(read_all(*source), (Ids{97, 255, 0, 122}));
  EXPECT_EQ(source->vocab_size(), 256);
  EXPECT_EQ(source->vocab(), nullptr);
}

TEST_F(TokenSourceTest, CharactersBringTheirVocabulary) {
  write("text", "ba\xc3\xa9\r\nb");
  const auto source = open_tokens({.path = path("text"), .kind = SourceKind::kCharacters});
  EXPECT_EQ(read_all(*source), (Ids{2, 1, 3, 0, 2}));
  EXPECT_EQ(source->vocab_size(), 4);
  source->vocab()->save(folder_ / "vocab.json", TextEncoding::kUtf16le);

  write("other",
        "\xc3\xa9"
        "a");
  const auto other = open_tokens({.path = path("other"), .vocab_file = path("vocab.json")});
  EXPECT_EQ(read_all(*other), (Ids{3, 1}));
  EXPECT_EQ(other->vocab_size(), 4);
  write("other", "ax");
  EXPECT_REFUSED(open_tokens({.path = path("other"), .vocab_file = path("vocab.json")}),
                 "byte 1: U+0078");
}

TEST_F(TokenSourceTest, Utf16KeepsItsMarkAsACharacter) {
  write("text", std::string_view("\xff\xfe"
                                 "b\0a\0",
                                 6));
  const auto source = open_tokens({.path = path("text"), .kind = SourceKind::kUtf16leCharacters});
  EXPECT_EQ(read_all(*source), (Ids{2, 1, 0}));
}

TEST_F(TokenSourceTest, KindFollowsTheName) {
  const Ids tokens{1, 65535, 2};
  write_pair("set", TokenType::kUint16, tokens);
  write_npy(folder_ / "set.npy", tokens, TokenType::kInt32);
  for (const char* name : {"set", "set.bin", "set.idx", "set.npy"}) {
    EXPECT_EQ(read_all(*open_tokens({.path = path(name)})), tokens) << name;
  }
  std::filesystem::remove(folder_ / "set.idx");
  EXPECT_REFUSED(open_tokens({.path = path("set.bin")}), "by naming its dtype");
  EXPECT_EQ(read_all(*open_tokens({.path = path("set.bin"), .dtype = "u16"})), tokens);
  EXPECT_EQ(read_all(*open_tokens({.path = path("set.bin"), .dtype = "int16"})), (Ids{1, -1, 2}));
  EXPECT_REFUSED(open_tokens({.path = path("set.bin"), .dtype = "i32"}), "no whole number of i32");
}

TEST_F(TokenSourceTest, StatedDtypeMustAgreeWithTheFile) {
  write_pair("set", TokenType::kUint16, {1});
  EXPECT_NO_THROW(open_tokens({.path = path("set"), .dtype = "u16"}));
  EXPECT_REFUSED(open_tokens({.path = path("set"), .dtype = "i32"}),
                 "the file says its tokens are u16");
  EXPECT_REFUSED(open_tokens({.path = path("set"), .dtype = "f32"}),
                 "no token type is called 'f32'");
  EXPECT_REFUSED(open_tokens({.path = path("set.bin"), .kind = SourceKind::kRaw}), "need a dtype");
}

TEST_F(TokenSourceTest, MissingFilesSayHowToGetThem) {
  EXPECT_REFUSED(open_tokens({.path = path("gcide.txt")}), "scripts/get-corpus gcide");
  EXPECT_REFUSED(open_tokens({.path = path("enwik8"), .kind = SourceKind::kCharacters}),
                 "scripts/get-corpus enwik8");
  EXPECT_REFUSED(open_tokens({.path = path("pile.bin")}), "rwkv data build");
  EXPECT_REFUSED(open_tokens({.path = path("pile"), .kind = SourceKind::kBinidx}),
                 "rwkv data build");
  EXPECT_REFUSED(open_tokens({.path = folder_.string()}), "no regular file");
  EXPECT_REFUSED(open_tokens({.path = "/dev/zero"}), "no regular file");
  write("text", "abc");
  EXPECT_REFUSED(open_tokens({.path = path("text"), .vocab_file = path("vocab.json")}),
                 "vocab.json: no such file");
}

TEST_F(TokenSourceTest, KindNamesAreThoseOfTheConfiguration) {
  EXPECT_EQ(parse_source_kind("utf16le", "data.kind"), SourceKind::kUtf16leCharacters);
  EXPECT_REFUSED(parse_source_kind("jpeg\n", "data.kind"),
                 "data.kind: no kind of data is called 'jpeg\\n'");
}

TEST_F(TokenSourceTest, ReadsStayInside) {
  write("text", "abcdef");
  const auto source = open_tokens({.path = path("text")});
  Ids two(2);
  source->read(4, two);
  EXPECT_EQ(two, (Ids{'e', 'f'}));
  EXPECT_THROW(source->read(5, two), std::out_of_range);
  EXPECT_THROW(source->read(-1, two), std::out_of_range);
  EXPECT_THROW(source->read(std::numeric_limits<int64_t>::max(), two), std::out_of_range);
  EXPECT_NO_THROW(source->read(6, std::span<int64_t>()));
}

TEST_F(TokenSourceTest, TailIsCutWithoutACommonToken) {
  write("text", "abcdefghij");
  const std::shared_ptr<const TokenSource> source = open_tokens({.path = path("text")});
  const TailSplit split = split_tail(source, 3);
  EXPECT_EQ(read_all(*split.train), (Ids{'a', 'b', 'c', 'd', 'e', 'f', 'g'}));
  EXPECT_EQ(read_all(*split.valid), (Ids{'h', 'i', 'j'}));
  Ids one(1);
  EXPECT_THROW(split.train->read(7, one), std::out_of_range) << "training reads validation tokens";
  EXPECT_EQ(split.valid->vocab_size(), 256);
  EXPECT_NE(split.train->fingerprint(), split.valid->fingerprint());
  EXPECT_REFUSED(split_tail(source, 10), "a validation tail of 10 tokens");
  EXPECT_REFUSED(split_tail(source, 0), "a validation tail of 0 tokens");
  EXPECT_THROW(slice(source, 2, 1), std::logic_error);
  EXPECT_THROW(slice(source, 0, 11), std::logic_error);
}

TEST_F(TokenSourceTest, ByteSplitsDoNotCutACharacter) {
  write("text", "a\xe4\xbd\xa0\r\nz");
  const auto bytes = open_tokens({.path = path("text")});
  const std::shared_ptr<const TokenSource> characters =
      open_tokens({.path = path("text"), .kind = SourceKind::kCharacters});
  EXPECT_EQ(bytes->token_at_byte(2), 2);
  EXPECT_EQ(characters->token_at_byte(1), 1);
  EXPECT_EQ(characters->token_at_byte(2), 2);
  EXPECT_EQ(characters->token_at_byte(4), 2);
  EXPECT_EQ(characters->token_at_byte(5), 3) << "a newline of two bytes is one token";
  EXPECT_EQ(characters->token_at_byte(100), 4);
  EXPECT_EQ(slice(characters, 1, 3)->token_at_byte(4), 1);
  write_pair("set", TokenType::kUint16, {1, 2, 3});
  EXPECT_EQ(open_tokens({.path = path("set")})->token_at_byte(3), 2);
}

TEST_F(TokenSourceTest, FingerprintFollowsTheContent) {
  write("a", "same");
  write("b", "same");
  write("c", "sane");
  const auto print = [this](const std::string& name, SourceKind kind) {
    return open_tokens({.path = path(name), .kind = kind})->fingerprint();
  };
  EXPECT_EQ(print("a", SourceKind::kBytes), print("b", SourceKind::kBytes));
  EXPECT_NE(print("a", SourceKind::kBytes), print("c", SourceKind::kBytes));
  EXPECT_NE(print("a", SourceKind::kBytes), print("a", SourceKind::kCharacters));
  write_pair("x", TokenType::kUint16, {1, 2});
  write_pair("y", TokenType::kUint16, {1, 3});
  EXPECT_NE(print("x", SourceKind::kBinidx), print("y", SourceKind::kBinidx));
}

TEST_F(TokenSourceTest, S08ShrunkFileIsNoticedThroughASlice) {
  write("text", "abcdef");
  const std::shared_ptr<const TokenSource> source = open_tokens({.path = path("text")});
  const auto part = slice(source, 0, 3);
  EXPECT_NO_THROW(part->check_unchanged());
  std::filesystem::resize_file(folder_ / "text", 2);
  EXPECT_REFUSED(part->check_unchanged(), "changed while it was being read");
}

TEST_F(TokenSourceTest, DummyNeedsNoFile) {
  const auto source = open_tokens({.kind = SourceKind::kDummy});
  EXPECT_EQ(source->size(), 1620950);
  EXPECT_EQ(source->vocab_size(), 13);
}

}  // namespace
}  // namespace rwkv::data
