#include "data/tokenizers/open_vocabulary.h"

#include <filesystem>
#include <string_view>
#include <system_error>

#include "data/base/error.h"
#include "data/base/mapped_file.h"
#include "data/text_dataset.h"
#include "data/tokenizers/world_tokenizer.h"

namespace rwkv::data {
namespace {

/// The largest tokenizer files have some ten megabytes; a corpus named by mistake is told apart
/// here.
constexpr int64_t kMaxFileBytes = int64_t{1} << 28;

bool is_digit(char c) { return c >= '0' && c <= '9'; }

std::string_view skip_blanks(std::string_view text) {
  return text.substr(std::min(text.find_first_not_of(" \t\r\n"), text.size()));
}

/// {"0": "a", ...}: its first key is a number, unlike those of a tokenizer.json.
bool looks_like_characters(std::string_view text) {
  if (text.starts_with("\xFF\xFE") || text.starts_with("\xFE\xFF")) return true;
  text = skip_blanks(text);
  if (!text.starts_with('{')) return false;
  text = skip_blanks(text.substr(1));
  return text.starts_with('}') || (text.size() > 1 && text[0] == '"' && is_digit(text[1]));
}

}  // namespace

std::shared_ptr<const Vocabulary> open_vocabulary(const std::string& name_or_file,
                                                  const BpeOptions& options) {
  if (name_or_file == "bytes") return byte_vocabulary();
  const std::string place = printable(name_or_file);
  if (std::error_code ignored; !std::filesystem::exists(name_or_file, ignored)) {
    user_error("{}: no such tokenizer file; 'scripts/get-tokenizers' gets those of 20B and World",
               place);
  }
  const MappedFile file(name_or_file);
  if (file.size_bytes() > kMaxFileBytes) {
    user_error("{}: {} bytes are too many for a tokenizer; name its file, not a text", place,
               file.size_bytes());
  }
  const std::string_view text(reinterpret_cast<const char*>(file.bytes().data()),
                              file.bytes().size());
  if (looks_like_characters(text))
    return character_vocabulary(CharVocab::parse(file.bytes(), place));
  const std::string_view content = skip_blanks(text);
  if (content.starts_with('{')) return bpe_tokenizer(std::string(text), place, options);
  if (!content.empty() && is_digit(content[0])) return world_tokenizer(std::string(text), place);
  user_error(
      "{}: no vocabulary that is known here; expected a tokenizer.json, a World vocabulary "
      "(rwkv_vocab_v20230424.txt) or a vocab.json of characters",
      place);
}

}  // namespace rwkv::data
