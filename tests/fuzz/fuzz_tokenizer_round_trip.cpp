// World: decode(encode(x)) == x for any bytes. BPE: the same up to ill-formed UTF-8 and normal form
// C. Both: a text in parts has the ids of the whole.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "data/base/utf8.h"
#include "data/tokenizers/bpe_tokenizer.h"
#include "data/tokenizers/unicode.h"
#include "data/tokenizers/world_tokenizer.h"
#include "tests/data/tokenizers/small_tokenizers.h"

namespace {

using rwkv::data::Vocabulary;

void check_parts(const Vocabulary& vocabulary, std::string_view text,
                 const std::vector<int64_t>& whole) {
  std::vector<int64_t> ids;
  size_t at = 0;
  for (size_t part = 8; text.size() - at > part;) {
    const size_t used = vocabulary.encode_part(text.substr(at, part), ids);
    at += used;
    part = used == 0 ? 2 * part : 8;
  }
  const auto rest = vocabulary.encode(text.substr(at));
  ids.insert(ids.end(), rest.begin(), rest.end());
  if (ids != whole) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const auto world = rwkv::data::world_tokenizer(
      rwkv::testing::small_world({"ab", "abcd", "\xe4\xbd", "  ", " the", "the "}), "world");
  static const auto bpe = rwkv::data::bpe_tokenizer(
      rwkv::testing::small_bpe({{"h", "e"}, {"t", "he"}, {" ", "the"}, {"\n", "\n"}, {"a", "b"}})
          .dump(),
      "bpe", {.special_as_text = true, .replace_ill_formed = true});
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  const auto world_ids = world->encode(bytes);
  if (world->decode(world_ids) != bytes) std::abort();
  check_parts(*world, bytes, world_ids);

  const std::string text = rwkv::replace_ill_formed_utf8(bytes);
  const auto bpe_ids = bpe->encode(bytes);
  if (bpe->decode(bpe_ids) != rwkv::data::unicode::nfc(text)) std::abort();
  check_parts(*bpe, text, bpe_ids);
  return 0;
}
