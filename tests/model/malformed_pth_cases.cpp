#include "tests/model/malformed_cases.h"

#include <fmt/format.h>

#include <limits>
#include <utility>

namespace rwkv::formats::testing {
namespace {

const std::string kPickle = dict_of(item({}));

/// pth_zip(kPickle) with one entry (0: data.pkl, 1: data/0, 2: version) changed.
template <typename Change>
std::string changed_entry(size_t index, Change change) {
  FakeZip zip = pth_zip(kPickle);
  change(zip.entries.at(index));
  return make_zip(zip);
}

template <typename Change>
std::string changed_zip(Change change) {
  FakeZip zip = pth_zip(kPickle);
  change(zip);
  return make_zip(zip);
}

std::string with_tensor(const FakeTensor& tensor) { return pth(dict_of(item(tensor))); }

/// A pickle whose only item is `value`, a piece of pickle.
std::string with_value(const std::string& value) { return pth(dict_of(text("w") + value)); }

std::vector<Case> lookalikes() {
  return {
      {"empty", "", "is empty"},
      {"lfs", "version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "Git LFS pointer"},
      {"html", "<!DOCTYPE html><html></html>", "HTML"},
      {"html after space", "\n\n  <html>", "HTML"},
      {"json", "{\"error\": \"not found\"}", "JSON"},
      {"json list", "[1, 2]", "JSON"},
      {"zeros", std::string(4096, '\0'), "zeros only"},
      {"plain pickle", "\x80\x04\x95", "plain Python pickle"},
      {"gzip", "\x1f\x8b\x08", "gzip"},
      {"zstd", "\x28\xb5\x2f\xfd", "zstd"},
      {"gguf", "GGUF" + le32(3), "GGUF"},
      {"old ggml", "lmgg" + le32(1), "first days"},
      {"numpy", "\x93NUMPY", "NumPy"},
      {"idx", "MMIDIDX", "token dataset"},
      {"tar", std::string(257, 'a') + "ustar" + std::string(300, 'a'), "tar archive"},
      {"empty zip", "PK\x05\x06" + std::string(18, '\0'), "empty zip"},
      {"text", "hello, this is no weight file", "is no weight file"},
      {"control characters", "\x1b[31mred\n\x07 alert", "\\x1b"},
  };
}

std::vector<Case> broken_zips() {
  const std::string good = pth(kPickle);
  const std::string wide = "\xff\xff\xff\xff";
  std::vector<Case> cases = {
      {"only a magic", "PK\x03\x04", "no zip end record"},
      {"without end record", good.substr(0, good.size() - 22), "no zip end record"},
      {"half", good.substr(0, good.size() / 2), "no zip end record"},
      {"one byte short", good.substr(0, good.size() - 1), "no zip end record"},
      {"one byte more", good + "x", "no zip end record"},
      {"bytes before", "PK\x03\x04" + good, "does not end at its end record"},
      {"gap after directory", changed_zip([](FakeZip& z) { z.gap = "gap"; }), "does not end at"},
      {"comment lies", changed_zip([](FakeZip& z) { z.comment = "x"; }) + "y", "no zip end record"},
      {"split", changed_zip([](FakeZip& z) { z.disk = 1; }), "split archive"},
      {"count 0", changed_zip([](FakeZip& z) { z.count = 0; }), "entries end at byte"},
      {"count too low", changed_zip([](FakeZip& z) { z.count = 1; }), "entries end at byte"},
      {"count too high", changed_zip([](FakeZip& z) { z.count = 4; }), "cannot hold 4"},
      {"count 60000", changed_zip([](FakeZip& z) { z.count = 60000; }), "cannot hold 60000"},
      {"directory size 0", changed_zip([](FakeZip& z) { z.directory_size = 0; }),
       "does not end at"},
      {"directory too large", changed_zip([](FakeZip& z) { z.directory_size = 0x7fffffff; }),
       "does not end at"},
      {"directory at 0", changed_zip([](FakeZip& z) { z.directory_offset = 0; }),
       "does not end at"},
      {"directory outside", changed_zip([](FakeZip& z) { z.directory_offset = 0xfffffffe; }),
       "does not end at"},
      {"zip64 count", changed_zip([](FakeZip& z) { z.zip64_end = true, z.zip64_count = 9; }),
       "contradicts"},
      {"zip64 huge count",
       changed_zip([](FakeZip& z) { z.zip64_end = true, z.count = 0xffff, z.zip64_count = ~0ULL; }),
       "cannot hold"},
      {"zip64 offset", changed_zip([](FakeZip& z) { z.zip64_end = true, z.zip64_offset = 7; }),
       "contradicts"},
      {"zip64 huge offset", changed_zip([](FakeZip& z) {
         z.zip64_end = true, z.directory_offset = 0xffffffff, z.zip64_offset = ~0ULL;
       }),
       "does not end at"},
      {"zip64 record elsewhere",
       changed_zip([](FakeZip& z) { z.zip64_end = true, z.locator_offset = 3; }),
       "no zip64 end record"},
      {"zip64 record outside",
       changed_zip([](FakeZip& z) { z.zip64_end = true, z.locator_offset = ~0ULL - 3; }),
       "outside of its"},
      {"zip64 record size",
       changed_zip([](FakeZip& z) { z.zip64_end = true, z.zip64_record_size = ~0ULL; }),
       "no zip64 end record"},
      {"no zip64 but full offset", changed_zip([](FakeZip& z) { z.directory_offset = 0xffffffff; }),
       "does not end at"},
      {"encrypted", changed_entry(1, [](FakeEntry& e) { e.flags = 1; }), "is encrypted"},
      {"strong encryption", changed_entry(1, [](FakeEntry& e) { e.flags = 0x41; }), "is encrypted"},
      {"masked header", changed_entry(1, [](FakeEntry& e) { e.flags = 0x2000; }), "is encrypted"},
      {"lzma", changed_entry(1, [](FakeEntry& e) { e.method = 14; }), "compression method 14"},
      {"other disk", changed_entry(1, [](FakeEntry& e) { e.disk = 1; }), "another disk"},
      {"method differs", changed_entry(1, [](FakeEntry& e) { e.local_method = 8; }), "disagree"},
      {"name differs", changed_entry(1, [](FakeEntry& e) { e.local_name = "archive/data/9"; }),
       "disagree"},
      {"name shorter", changed_entry(2, [](FakeEntry& e) { e.local_name = "x"; }), "disagree"},
      {"header offset outside", changed_entry(1, [](FakeEntry& e) { e.offset = 0x70000000; }),
       "outside of its"},
      {"header offset wrong", changed_entry(1, [](FakeEntry& e) { e.offset = 5; }), "no header of"},
      {"two entries one place", changed_zip([](FakeZip& z) {
         z.entries[2] = z.entries[1], z.entries[2].name += "b",
         z.entries[2].local_name = "archive/data/0";
       }),
       "disagree"},
      {"size differs", changed_entry(1, [](FakeEntry& e) { e.size = 12; }), "claims 12 bytes"},
      {"packed size differs", changed_entry(1, [](FakeEntry& e) { e.packed_size = 12; }),
       "claims 24 bytes and holds 12"},
      {"both sizes too large",
       changed_entry(1, [](FakeEntry& e) { e.size = e.packed_size = 0x60000000; }),
       "runs into the directory"},
      {"sizes reach into the next",
       changed_entry(1, [](FakeEntry& e) { e.size = e.packed_size = 60; }), "overlap"},
      {"zip64 sizes cut short",
       changed_entry(1,
                     [](FakeEntry& e) {
                       e.size = e.packed_size = 0xffffffff, e.extra = le16(1) + le16(8) + le64(24);
                     }),
       "are cut short"},
      {"zip64 sizes absent",
       changed_entry(1, [](FakeEntry& e) { e.size = e.packed_size = 0xffffffff; }),
       "runs into the directory"},
      {"zip64 sizes huge",
       changed_entry(1,
                     [](FakeEntry& e) {
                       e.size = e.packed_size = 0xffffffff,
                       e.extra = le16(1) + le16(16) + le64(~0ULL) + le64(~0ULL);
                     }),
       "runs into the directory"},
      {"zip64 size negative",
       changed_entry(1,
                     [](FakeEntry& e) {
                       e.deflate = true, e.size = 0xffffffff,
                       e.extra = le16(1) + le16(8) + le64(1ULL << 63);
                     }),
       "claims"},
      {"zip64 offset outside",
       changed_entry(1,
                     [](FakeEntry& e) {
                       e.offset = 0xffffffff, e.extra = le16(1) + le16(8) + le64(~0ULL - 20);
                     }),
       "outside of its"},
      {"duplicate name", changed_zip([](FakeZip& z) { z.entries.push_back(z.entries[1]); }),
       "two entries named"},
      {"crc of the pickle", changed_entry(0, [](FakeEntry& e) { e.crc32 = 1; }), "CRC-32"},
      {"crc of a storage", changed_entry(1, [](FakeEntry& e) { e.crc32 = 1; }), "damaged"},
      {"crc of a deflated storage",
       changed_entry(1, [](FakeEntry& e) { e.deflate = true, e.crc32 = 1; }), "CRC-32"},
      {"deflate bomb",
       changed_entry(1, [](FakeEntry& e) { e.deflate = true, e.size = 0x7fffffff; }), "more than"},
      {"inflates to more", changed_entry(1, [](FakeEntry& e) { e.deflate = true, e.size = 12; }),
       "claims 6 elements"},
      {"inflates to less", changed_entry(0, [](FakeEntry& e) { e.deflate = true, e.size = 4000; }),
       "does not give"},
      {"inflates to more than said",
       changed_entry(0, [](FakeEntry& e) { e.deflate = true, e.size = 100; }), "does not give"},
      {"no deflate stream", changed_entry(0, [](FakeEntry& e) { e.method = 8; }), "does not give"},
      {"bytes after the stream",
       changed_entry(0,
                     [](FakeEntry& e) {
                       e.method = 8, e.size = static_cast<uint32_t>(e.content.size());
                       e.content = raw_deflate(e.content) + "tail";
                     }),
       "does not give"},
  };
  FakeZip bombs = pth_zip(kPickle);
  for (int i = 0; i < 9; ++i) {
    bombs.entries.push_back({.name = "archive/data/b" + std::to_string(i), .content = "x"});
    FakeEntry& bomb = bombs.entries.back();
    bomb.method = 8;
    bomb.content = std::string(2'100'000, 'x');
    bomb.size = 2'147'000'000;
  }
  cases.push_back({"deflated entries of 18 GiB", make_zip(bombs), "save it again with torch.save"});
  return cases;
}

std::vector<Case> broken_archives() {
  const auto renamed = [](size_t index, const std::string& name) {
    return changed_entry(index, [&](FakeEntry& e) { e.name = name; });
  };
  const auto with_entry = [](const std::string& name, const std::string& content) {
    return changed_zip(
        [&](FakeZip& z) { z.entries.push_back({.name = name, .content = content}); });
  };
  return {
      {"no pickle", renamed(0, "archive/other.pkl"), "without data.pkl"},
      {"two pickles", with_entry("other/data.pkl", "x"), "two pickles"},
      {"TorchScript", with_entry("archive/constants.pkl", "x"), "TorchScript"},
      {"big-endian", with_entry("archive/byteorder", "big"), "byte order is \"big\""},
      {"long byte order", with_entry("archive/byteorder", std::string(99, 'l')), "byte order"},
      {"storage missing", renamed(1, "archive/data/7"), "which is not in the archive"},
      {"storage under another root", renamed(1, "other/data/0"), "which is not in the archive"},
      {"storage name with ..", renamed(1, "archive/data/../0"), "which is not in the archive"},
      {"empty pickle", pth(""), "cut short"},
      {"bytes after the pickle", pth(kPickle + "x"), "follow the end of its pickle"},
      {"top is a number", pth("\x80\x02K\x01."), "something else than a dict"},
      {"top is a list", pth("\x80\x02]."), "something else than a dict"},
      {"top is a tensor", pth("\x80\x02" + rebuild({}) + "."), "something else than a dict"},
      {"empty dict", pth("\x80\x02}."), "holds no named tensors"},
      {"only numbers", with_value("K\x01"), "holds no named tensors"},
      {"tensor under a number", pth(dict_of("K\x01" + rebuild({}))), "name is no string"},
      {"dict that holds itself", pth("\x80\x02}q\x01" + text("model") + "h\x01s."),
       "holds no named tensors"},
      {"two tensors of a name", pth(dict_of(item({}) + item({}))), "two tensors named w"},
      {"name is no UTF-8", with_tensor({.name = "\xff\xfe"}), "no UTF-8"},
      {"newline in a name", with_tensor({.name = "a\nb", .numel = 7}), "tensor a\\nb"},
  };
}

std::vector<Case> forged_tensors() {
  constexpr int64_t kHuge = int64_t{1} << 62;
  constexpr int64_t kMin = std::numeric_limits<int64_t>::min();
  return {
      {"numel too large", with_tensor({.numel = 1000}), "claims 1000 elements"},
      {"numel too small", with_tensor({.numel = 5}), "claims 5 elements"},
      {"numel negative", with_tensor({.numel = -6}), "claims -6 elements"},
      {"numel wraps around", with_tensor({.numel = kHuge + 6}), "claims"},
      {"numel of another type", with_tensor({.type = "DoubleStorage"}), "6 elements of f64"},
      {"storage key with ..", with_tensor({.key = text("../data.pkl")}), "not in the archive"},
      {"storage key absolute", with_tensor({.key = text("/etc/passwd")}), "not in the archive"},
      {"storage key of a list", with_tensor({.key = "]"}), "storage's key has another type"},
      {"offset outside", with_tensor({.offset = 1}), "reaches outside"},
      {"offset negative", with_tensor({.offset = -1}), "negative"},
      {"offset smallest", with_tensor({.offset = kMin}), "negative"},
      {"offset huge", with_tensor({.offset = kHuge}), "reaches outside"},
      {"empty with offset outside", with_tensor({.offset = 7, .shape = {0, 3}}), "begins outside"},
      {"size negative", with_tensor({.shape = {-2, 3}}), "negative"},
      {"sizes both negative", with_tensor({.shape = {-2, -3}}), "negative"},
      {"size too large", with_tensor({.offset = 4, .shape = {3, 3}, .strides = {0, 1}}),
       "reaches outside"},
      {"sizes wrap around", with_tensor({.shape = {kHuge, kHuge}}), "more elements than fit"},
      {"a zero hides an overflow", with_tensor({.shape = {0, kHuge, kHuge}, .strides = {1, 1, 1}}),
       "more elements than fit"},
      {"size claims memory", with_tensor({.shape = {kHuge / 64}, .strides = {0}}),
       "larger than its storage"},
      {"stride negative", with_tensor({.strides = {-3, 1}}), "negative"},
      {"stride too large", with_tensor({.strides = {4, 1}}), "reaches outside"},
      {"stride wraps around", with_tensor({.strides = {std::numeric_limits<int64_t>::max(), 1}}),
       "reaches outside"},
      {"strides sum wraps",
       with_tensor({.offset = kHuge, .shape = {2, 2}, .strides = {kHuge, kHuge}}),
       "reaches outside"},
      {"fewer strides", with_tensor({.strides = {1}}), "one stride for each"},
      {"more strides", with_tensor({.strides = {3, 1, 1}}), "one stride for each"},
      {"65 dimensions",
       with_tensor({.shape = std::vector<int64_t>(65, 1), .strides = std::vector<int64_t>(65, 1)}),
       "65 dimensions"},
  };
}

std::vector<Case> forbidden_globals() {
  std::vector<Case> cases;
  for (const auto& [module, name] :
       std::vector<std::pair<std::string, std::string>>{{"os", "system"},
                                                        {"posix", "system"},
                                                        {"nt", "system"},
                                                        {"builtins", "eval"},
                                                        {"builtins", "exec"},
                                                        {"__builtin__", "eval"},
                                                        {"builtins", "getattr"},
                                                        {"subprocess", "Popen"},
                                                        {"operator", "attrgetter"},
                                                        {"functools", "partial"},
                                                        {"runpy", "_run_code"},
                                                        {"numpy.core.multiarray", "_reconstruct"},
                                                        {"torch", "load"},
                                                        {"torch.storage", "_load_from_bytes"},
                                                        {"torch", "FloatStorage.from_file"},
                                                        {"collections", "OrderedDict.fromkeys"}}) {
    const std::string wanted = fmt::format("asks for {}.{}", module, name);
    cases.push_back({wanted, with_value(global(module, name)), wanted});
  }
  cases.push_back({"stack global", with_value(text("os") + text("system") + "\x93"), "os.system"});
  cases.push_back({"global with escapes", with_value(global("a\x1b[2J", "b")), "a\\x1b[2J.b"});
  cases.push_back({"global without end",
                   pth("\x80\x02"
                       "cos"),
                   "without an end of line"});
  cases.push_back({"call of a storage type", with_value(global("torch", "FloatStorage") + ")R"),
                   "is no function"});
  cases.push_back(
      {"call of a string", with_value(text("os.system") + ")R"), "a function has another"});
  return cases;
}

std::vector<Case> broken_pickles() {
  const std::string rebuild_v2 = global("torch._utils", "_rebuild_tensor_v2");
  const std::string ordered = global("collections", "OrderedDict");
  const std::string parameter = global("torch._utils", "_rebuild_parameter");
  std::vector<Case> cases = {
      {"protocol 1", pth("\x80\x01}."), "protocol 1"},
      {"protocol 6", pth("\x80\x06}."), "protocol 6"},
      {"protocol twice", pth("\x80\x02\x80\x02}."), "second beginning"},
      {"frame too long", pth("\x80\x04\x95" + le64(1 << 20) + "}."), "a frame of"},
      {"no stop", pth("\x80\x02}"), "cut short"},
      {"stop on nothing", pth("\x80\x02."), "0 values"},
      {"two values left", pth("\x80\x02}}."), "2 values"},
      {"open mark", pth("\x80\x02}(."), "1 open marks"},
      {"memo miss", with_value("h\x05"), "object 5, which was never stored"},
      {"long memo miss", with_value("j" + le32(0xffffffff)), "never stored"},
      {"memo of nothing", pth("\x80\x02q\x01."), "empty stack"},
      {"string longer than file", pth("\x80\x02X" + le32(0xffffffff) + "abc"), "cut short"},
      {"string of 2^64-1", pth("\x80\x04\x8d" + le64(~0ULL) + "abc"), "cut short"},
      {"integer cut short",
       pth("\x80\x02\x8a\xff"
           "abc"),
       "cut short"},
      {"tuple without mark", pth("\x80\x02t."), "never set"},
      {"items without mark", pth("\x80\x02}u."), "never set"},
      {"tuple of an empty stack", pth("\x80\x02\x87."), "empty stack"},
      {"takes from below a mark", pth("\x80\x02}(s."), "empty stack"},
      {"odd items", pth("\x80\x02}(K\x01u."), "a dict key without a value"},
      {"append to a dict",
       pth("\x80\x02}K\x01"
           "a."),
       "list item has another type"},
      {"set in a list", pth("\x80\x02]K\x01K\x02s."), "dict item has another type"},
      {"attributes of a list", pth("\x80\x02]}b."), "object with attributes"},
      {"call without tuple", with_value(ordered + "]R"), "list of arguments"},
      {"stack global of numbers", with_value("K\x01K\x02\x93"), "name of a global"},
      {"opcode INST", with_value("(ios\nsystem\n"), "opcode 0x69"},
      {"opcode OBJ", with_value("(o"), "opcode 0x6f"},
      {"opcode NEWOBJ", with_value(ordered + ")\x81"), "opcode 0x81"},
      {"opcode EXT1", with_value("\x82\x01"), "opcode 0x82"},
      {"opcode PERSID", with_value("P0\n"), "opcode 0x50"},
      {"opcode BUFFER", with_value("\x97"), "opcode 0x97"},
      {"opcode 0", with_value(std::string(1, '\0')), "opcode 0x00"},
      {"200,000 nested lists", with_value(repeated("]", 200'000) + repeated("a", 199'999)),
       "nested"},
      {"200,000 nested marks", with_value(repeated("(", 200'000) + repeated("t", 200'000)),
       "nested"},
      {"storage of no tuple", with_value("K\x01Q"), "a storage has another type"},
      {"storage of 2 values", with_value("(K\x01K\x01tQ"), "described by 2 values"},
      {"storage of another kind",
       with_value("(" + text("module") + global("torch", "FloatStorage") + text("0") + text("cpu") +
                  "K\x06tQ"),
       "unknown kind of object"},
      {"storage of a function",
       with_value("(" + text("storage") + ordered + text("0") + text("cpu") + "K\x06tQ"),
       "storage of type OrderedDict"},
      {"storage with a view",
       with_value("(" + text("storage") + global("torch", "FloatStorage") + text("0") +
                  text("cpu") + "K\x06K\x01tQ"),
       "a view of a storage has another type"},
      {"tensor of no arguments", with_value(rebuild_v2 + ")R"), "a tensor made of 0 values"},
      {"tensor of 8 arguments", with_value(rebuild_v2 + "(NNNNNNNNtR"), "made of 8 values"},
      {"tensor of nothing", with_value(rebuild_v2 + "(NNNNNNtR"), "tensor's storage"},
      {"parameter of a number", with_value(parameter + "(K\x01\x89}tR"), "parameter's tensor"},
      {"parameter of 1", with_value(parameter + "(K\x01tR"), "parameter made of 1"},
      {"OrderedDict of a number", with_value(ordered + "(K\x01tR"), "content of an OrderedDict"},
      {"OrderedDict of 2", with_value(ordered + "(]]tR"), "OrderedDict made of 2"},
      {"OrderedDict of singles",
       with_value(ordered + "(](K\x01"
                            "etR"),
       "no pairs"},
      {"OrderedDict of a triple",
       with_value(ordered + "(](K\x01K\x01K\x01\x87"
                            "etR"),
       "pair of 3"},
      {"Size of a number", with_value(global("torch", "Size") + "(K\x01tR"), "torch.Size"},
      {"size is a list",
       with_value(rebuild_v2 + "((" + text("storage") + global("torch", "FloatStorage") +
                  text("0") + text("cpu") + "K\x06tQ" + integer(0) + "])\x89}tR"),
       "tensor's size has another type"},
      {"opcode POP", with_value("N0"), "opcode 0x30"},
      {"millions of memo entries", with_value("N" + repeated("\x94", 4'100'000)), "remembered"},
      {"millions of objects", with_value("](" + repeated(repeated("N", 60'000) + "e(", 70) + "e"),
       "objects"},
  };
  cases.push_back({"pickle of 70 MB", with_value(repeated("N", 70 << 20)), "too many"});
  return cases;
}

}  // namespace

std::vector<MalformedGroup> malformed_pth() {
  return {{"zip", broken_zips()},
          {"archive", broken_archives()},
          {"tensor", forged_tensors()},
          {"global", forbidden_globals()},
          {"pickle", broken_pickles()}};
}

std::vector<Case> files_of_other_kinds() { return lookalikes(); }

std::vector<Case> controls_that_load() {
  const FakeTensor tensor;
  const std::string ordered = global("collections", "OrderedDict");
  return {
      {"tiny pth", tiny_pth(), ""},
      {"tiny safetensors", tiny_safetensors(), ""},
      {"zip64 end record", changed_zip([](FakeZip& z) { z.zip64_end = true; }), ""},
      {"zip64 saturated", changed_zip([](FakeZip& z) {
         z.zip64_end = true, z.count = 0xffff, z.directory_size = z.directory_offset = 0xffffffff;
       }),
       ""},
      {"zip64 extra",
       changed_entry(1,
                     [](FakeEntry& e) {
                       e.size = e.packed_size = 0xffffffff,
                       e.extra = le16(1) + le16(16) + le64(24) + le64(24);
                     }),
       ""},
      {"zip comment", changed_zip([](FakeZip& z) { z.comment = "made by hand PK\x05\x06"; }), ""},
      {"descriptors", changed_zip([](FakeZip& z) {
         for (FakeEntry& entry : z.entries) entry.torch_style = true;
       }),
       ""},
      {"deflated", changed_zip([](FakeZip& z) {
         for (FakeEntry& entry : z.entries) entry.deflate = true;
       }),
       ""},
      {"no checksums", changed_zip([](FakeZip& z) {
         for (FakeEntry& entry : z.entries) entry.crc32 = 0;
       }),
       ""},
      {"folder entries",
       changed_zip([](FakeZip& z) { z.entries.push_back({.name = "archive/", .content = ""}); }),
       ""},
      {"byteorder little", changed_zip([](FakeZip& z) {
         z.entries.push_back({.name = "archive/byteorder", .content = "little"});
       }),
       ""},
      {"OrderedDict with _metadata",
       pth("\x80\x02" + ordered + ")R(" + item(tensor) + "u}" + text("_metadata") + "}sb."), ""},
      {"OrderedDict of pairs",
       pth("\x80\x02" + ordered + "(](" + item(tensor) +
           "\x86"
           "etR."),
       ""},
      {"parameter",
       with_value(global("torch._utils", "_rebuild_parameter") + "(" + rebuild(tensor) + "\x88}tR"),
       ""},
      {"expanded", with_tensor({.shape = {1000, 6}, .strides = {0, 1}}), ""},
      {"empty tensor", with_tensor({.offset = 6, .shape = {0, 3}}), ""},
      {"scalar", with_tensor({.offset = 5, .shape = {}, .strides = {}}), ""},
      {"odd stride of a size of 1", with_tensor({.shape = {1, 6}, .strides = {1LL << 62, 1}}), ""},
      {"list that holds itself",
       pth(dict_of(item(tensor) + text("loop") +
                   "]q\x01h\x01"
                   "a")),
       ""},
      {"empty safetensors", safetensors("{}", ""), ""},
      {"padded safetensors", safetensors("{}" + std::string(60, ' '), ""), ""},
      {"empty tensors between",
       safetensors(R"({"a":{"dtype":"F32","shape":[6],"data_offsets":[0,24]},)"
                   R"("b":{"dtype":"U8","shape":[0,7],"data_offsets":[24,24]}})",
                   six_floats()),
       ""},
  };
}

}  // namespace rwkv::formats::testing
