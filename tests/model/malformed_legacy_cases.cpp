#include "tests/model/malformed_cases.h"

namespace rwkv::formats::testing {

std::vector<Case> malformed_legacy_pth() {
  return {
      {"only the magic", changed_legacy([](LegacyParts& p) {
         p.version = p.machine = p.object = p.keys = p.storages = "";
       }),
       "cut short"},
      {"other version", changed_legacy([](LegacyParts& p) { p.version = "\x80\x02K\x01."; }),
       "not 1001"},
      {"version is text",
       changed_legacy([](LegacyParts& p) { p.version = "\x80\x02" + text("x") + "."; }),
       "not 1001"},
      {"no machine", changed_legacy([](LegacyParts& p) { p.machine = "\x80\x02]."; }),
       "the machine"},
      {"byte order not told", changed_legacy([](LegacyParts& p) { p.machine = "\x80\x02}."; }),
       "not told"},
      {"big-endian", changed_legacy([](LegacyParts& p) {
         p.machine = "\x80\x02}" + text("little_endian") + "\x89s.";
       }),
       "big-endian"},
      {"object is a list", changed_legacy([](LegacyParts& p) {
         p.object = "\x80\x02].";
         p.keys = "\x80\x02].";
         p.storages = "";
       }),
       "than a dict"},
      {"global",
       changed_legacy([](LegacyParts& p) { p.object = "\x80\x02" + global("os", "system") + "."; }),
       "os.system"},
      {"no list of keys", changed_legacy([](LegacyParts& p) { p.keys = "\x80\x02}."; }),
       "no list of storages"},
      {"a key of no text", changed_legacy([](LegacyParts& p) { p.keys = "\x80\x02](Ne."; }),
       "neither"},
      {"unused key",
       changed_legacy([](LegacyParts& p) { p.keys = "\x80\x02](" + text("5") + "e."; }),
       "what type storage 5"},
      {"key twice", changed_legacy([](LegacyParts& p) {
         p.keys = "\x80\x02](" + text("0") + text("0") + "e.";
         p.storages += p.storages;
       }),
       "two storages 0"},
      {"key missing", changed_legacy([](LegacyParts& p) {
         p.keys = "\x80\x02].";
         p.storages = "";
       }),
       "which is not there"},
      {"no storage", changed_legacy([](LegacyParts& p) { p.storages = ""; }), "cut short before"},
      {"storage cut", changed_legacy([](LegacyParts& p) { p.storages.pop_back(); }), "cut short"},
      {"negative size",
       changed_legacy([](LegacyParts& p) { p.storages = stored(-1, six_floats()); }), "claims -1"},
      {"huge size",
       changed_legacy([](LegacyParts& p) { p.storages = stored(int64_t{1} << 62, six_floats()); }),
       "claims 4611686018427387904"},
      {"more than claimed",
       changed_legacy([](LegacyParts& p) { p.storages = stored(5, six_floats()); }),
       "bytes follow the last storage"},
      {"pickle claims more",
       changed_legacy([](LegacyParts& p) { p.storages = stored(5, six_floats().substr(0, 20)); }),
       "claims 6 elements"},
      {"two types", changed_legacy([](LegacyParts& p) {
         p.object = dict_of(item({}) + item({.name = "b", .type = "IntStorage"}));
       }),
       "both f32 and i32"},
      {"view beyond", changed_legacy([](LegacyParts& p) { p.object = dict_of(viewed(5, 2)); }),
       "5 to 5+2"},
      {"view negative", changed_legacy([](LegacyParts& p) { p.object = dict_of(viewed(-1, 2)); }),
       "-1 to -1+2"},
      {"view wraps around",
       changed_legacy([](LegacyParts& p) { p.object = dict_of(viewed(1, INT64_MAX)); }),
       "of a storage of 6"},
      {"tensor beyond its view",
       changed_legacy([](LegacyParts& p) { p.object = dict_of(viewed(3, 2, 3)); }),
       "reaches outside"},
      {"tensor outside",
       changed_legacy([](LegacyParts& p) { p.object = dict_of(item({.offset = 1})); }),
       "reaches outside"},
      {"tail", legacy({}) + "x", "1 bytes follow"},
  };
}

}  // namespace rwkv::formats::testing
