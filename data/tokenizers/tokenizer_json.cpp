#include "data/tokenizers/tokenizer_json.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <optional>
#include <unordered_map>
#include <utility>

#include "data/base/error.h"
#include "data/base/utf8.h"

namespace rwkv::data {
namespace {

using nlohmann::json;

constexpr int kMaxDepth = 16;
constexpr uint32_t kMaxId = 1U << 20;

/// nlohmann's parser keeps the last of two equal keys and takes any depth; both are refused here.
class StrictParse {
 public:
  explicit StrictParse(std::string_view place) : place_(place) {}
  json operator()(std::string_view text) {
    try {
      return json::parse(text, [this](int depth, json::parse_event_t event, json& parsed) {
        return check(depth, event, parsed);
      });
    } catch (const json::parse_error& error) {
      user_error("{}: no valid JSON near byte {}; get the file again", place_, error.byte);
    }
  }

 private:
  bool check(int depth, json::parse_event_t event, const json& parsed) {
    if (depth > kMaxDepth) user_error("{}: nested deeper than any tokenizer.json is", place_);
    if (event == json::parse_event_t::object_start) {
      keys_.push_back(0);
    } else if (event == json::parse_event_t::key) {
      ++keys_.back();
    } else if (event == json::parse_event_t::object_end) {
      if (parsed.size() != keys_.back()) {
        user_error("{}: an object near the token '{}' has a key twice; get the file again", place_,
                   parsed.empty() ? "" : printable(parsed.begin().key(), 40));
      }
      keys_.pop_back();
    }
    return true;
  }

  std::string_view place_;
  std::vector<size_t> keys_;
};

/// GPT-2's alphabet: bytes that are printable stand for themselves, the others for U+0100 and on
/// (openai/gpt-2 src/encoder.py, bytes_to_unicode).
class ByteAlphabet {
 public:
  ByteAlphabet() {
    char32_t next = 0x100;
    for (unsigned byte = 0; byte < 256; ++byte) {
      const bool printable_byte =
          (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
      const char32_t character = printable_byte ? static_cast<char32_t>(byte) : next++;
      bytes_.emplace(character, static_cast<char>(byte));
    }
  }
  /// The bytes that `text` (UTF-8) stands for, or nothing when a character stands for none.
  [[nodiscard]] std::optional<std::string> bytes_of(std::string_view text) const {
    std::string bytes;
    for (size_t at = 0; at < text.size();) {
      const auto found = bytes_.find(next_utf8(text, at));
      if (found == bytes_.end()) return std::nullopt;
      bytes += found->second;
    }
    return bytes;
  }

 private:
  std::unordered_map<char32_t, char> bytes_;
};

class Reader {
 public:
  Reader(const json& file, std::string_view place) : file_(file), place_(place) {}

  TokenizerJson read() {
    if (!file_.is_object()) refuse("it is no JSON object");
    check_settings();
    read_vocabulary();
    read_bytes();
    read_merges();
    read_added();
    return std::move(out_);
  }

 private:
  template <typename... Args>
  [[noreturn]] void refuse(fmt::format_string<Args...> format, Args&&... args) const {
    user_error(
        "{}: {}; expected a tokenizer.json with a byte-level BPE, such as 20B_tokenizer.json",
        place_, fmt::format(format, std::forward<Args>(args)...));
  }

  static std::string shown(const json& value) {
    return printable(value.dump(-1, ' ', true, json::error_handler_t::replace), 60);
  }

  /// A member, or null where there is none.
  static const json& member(const json& object, const char* key) {
    static const json null;
    const auto found = object.find(key);
    return found == object.end() ? null : *found;
  }

  /// Refuses a part whose `key` is there and is not `wanted`.
  void require(const json& part, const char* name, const char* key, const json& wanted) const {
    const json& value = member(part, key);
    if (!value.is_null() && value != wanted)
      refuse("{}: {} is {}, which is not supported", name, key, shown(value));
  }

  void check_settings() {
    const json& model = member(file_, "model");
    if (!model.is_object()) refuse("it has no model");
    if (member(model, "type") != "BPE")
      refuse("model.type is {}, not \"BPE\"", shown(member(model, "type")));
    for (const char* key : {"truncation", "padding"}) {
      if (!member(file_, key).is_null()) refuse("it asks for {}, which would change the ids", key);
    }
    check_normalizer(member(file_, "normalizer"));
    check_byte_level("pre_tokenizer", /*required=*/true);
    check_byte_level("post_processor", /*required=*/false);
    check_byte_level("decoder", /*required=*/true);
    for (const char* key : {"dropout", "continuing_subword_prefix", "end_of_word_suffix"}) {
      const json& value = member(model, key);
      const bool unused = value.is_null() || value == "" || (value.is_number() && value == 0);
      if (!unused) refuse("model.{} is {}, which is not supported", key, shown(value));
    }
    require(model, "model", "byte_fallback", false);
    require(model, "model", "ignore_merges", false);
  }

  void check_normalizer(const json& part) {
    if (part.is_null()) return;
    if (!part.is_object()) refuse("normalizer is {}", shown(part));
    const json& type = member(part, "type");
    if (type == "NFC") {
      out_.nfc = true;
    } else if (type == "Sequence" && member(part, "normalizers").is_array()) {
      for (const json& inner : member(part, "normalizers")) check_normalizer(inner);
    } else {
      refuse("the normalizer {} is not supported, only NFC is", shown(type));
    }
  }

  void check_byte_level(const char* name, bool required) const {
    const json& part = member(file_, name);
    if (part.is_null() && !required) return;
    if (!part.is_object() || member(part, "type") != "ByteLevel") {
      refuse("{} is {}, not ByteLevel", name,
             part.is_object() ? shown(member(part, "type")) : shown(part));
    }
    if (std::string_view(name) != "pre_tokenizer") return;
    require(part, name, "add_prefix_space", false);
    require(part, name, "use_regex", true);
    if (member(part, "add_prefix_space").is_null())
      refuse("{} does not say add_prefix_space", name);
  }

  uint32_t checked_id(const json& value, const std::string& token) const {
    if (!value.is_number_unsigned() || value.get<uint64_t>() >= kMaxId) {
      refuse("the id of '{}' is {}, no whole number below {}", printable(token, 40), shown(value),
             kMaxId);
    }
    return value.get<uint32_t>();
  }

  /// Gives `id` its bytes; the same id may come again with the same bytes only.
  void set_token(uint32_t id, std::string bytes) {
    if (out_.tokens.size() <= id) out_.tokens.resize(id + 1);
    std::string& place = out_.tokens[id];
    if (!place.empty() && place != bytes) {
      refuse("id {} stands for '{}' and for '{}'", id, printable(place, 40), printable(bytes, 40));
    }
    place = std::move(bytes);
  }

  void read_vocabulary() {
    const json& vocab = member(member(file_, "model"), "vocab");
    if (!vocab.is_object() || vocab.empty()) refuse("model.vocab is no table of tokens");
    for (const auto& [token, value] : vocab.items()) {
      if (token.empty()) refuse("model.vocab has an empty token");
      const uint32_t id = checked_id(value, token);
      ids_.emplace(token, id);
      // Added tokens may stand in the vocabulary too, in plain letters (<|endoftext|>): those are
      // their own bytes.
      set_token(id, alphabet_.bytes_of(token).value_or(token));
    }
    if (ids_.size() != vocab.size()) refuse("model.vocab has a token twice");
    size_t used = 0;
    for (const std::string& token : out_.tokens) used += token.empty() ? 0 : 1;
    if (used != vocab.size())
      refuse("model.vocab gives {} tokens {} different ids", vocab.size(), used);
  }

  void read_bytes() {
    std::array<bool, 256> found{};
    for (const auto& [token, id] : ids_) {
      const auto bytes = alphabet_.bytes_of(token);
      if (!bytes || bytes->size() != 1) continue;
      const auto byte = static_cast<unsigned char>((*bytes)[0]);
      out_.byte_ids[byte] = id;
      found[byte] = true;
    }
    for (unsigned byte = 0; byte < 256; ++byte) {
      const bool in_utf8 = byte != 0xC0 && byte != 0xC1 && byte < 0xF5;
      if (found[byte] || !in_utf8) continue;
      refuse("the single byte 0x{:02x} is not in model.vocab, so some texts would have no ids",
             byte);
    }
  }

  uint32_t id_of(const std::string& token, size_t rank) const {
    const auto found = ids_.find(token);
    if (found == ids_.end())
      refuse("merge {} names '{}', which is not in model.vocab", rank, printable(token, 40));
    return found->second;
  }

  void read_merges() {
    const json& merges = member(member(file_, "model"), "merges");
    if (!merges.is_array()) refuse("model.merges is no list");
    std::unordered_map<uint64_t, size_t> seen;
    for (size_t rank = 0; rank < merges.size(); ++rank) {
      const auto [left, right] = two_tokens(merges[rank], rank);
      const BpeMerge merge{id_of(left, rank), id_of(right, rank), id_of(left + right, rank)};
      const auto [first, is_new] =
          seen.emplace(static_cast<uint64_t>(merge.left) << 32 | merge.right, rank);
      if (!is_new) refuse("merges {} and {} are the same", first->second, rank);
      out_.merges.push_back(merge);
    }
  }

  /// "left right" as older files write it, or ["left", "right"].
  std::pair<std::string, std::string> two_tokens(const json& merge, size_t rank) const {
    if (merge.is_string()) {
      const auto& text = merge.get_ref<const std::string&>();
      const size_t space = text.find(' ');
      if (space != std::string::npos && text.find(' ', space + 1) == std::string::npos) {
        return {text.substr(0, space), text.substr(space + 1)};
      }
    } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() &&
               merge[1].is_string()) {
      return {merge[0], merge[1]};
    }
    refuse("merge {} is {}, not two tokens", rank, shown(merge));
  }

  void read_added() {
    const json& added = member(file_, "added_tokens");
    if (added.is_null()) return;
    if (!added.is_array()) refuse("added_tokens is no list");
    std::unordered_map<std::string, uint32_t> seen;
    for (const json& token : added) {
      if (!token.is_object() || !member(token, "content").is_string()) {
        refuse("an added token is {}", shown(token));
      }
      AddedToken read;
      read.content = token["content"];
      if (read.content.empty()) refuse("an added token is empty");
      read.id = checked_id(member(token, "id"), read.content);
      for (const char* key : {"single_word", "lstrip", "rstrip"}) {
        require(token, "an added token", key, false);
      }
      read.special = member(token, "special") == true;
      read.normalized = member(token, "normalized").is_null() ? !read.special
                                                              : member(token, "normalized") == true;
      if (!seen.emplace(read.content, read.id).second) {
        refuse("the added token '{}' is there twice", printable(read.content, 40));
      }
      const auto known = ids_.find(read.content);
      if (known != ids_.end() && known->second != read.id) {
        refuse("'{}' has the ids {} and {}", printable(read.content, 40), known->second, read.id);
      }
      if (known == ids_.end()) set_token(read.id, read.content);
      out_.added.push_back(std::move(read));
    }
  }

  const json& file_;
  std::string_view place_;
  ByteAlphabet alphabet_;
  std::unordered_map<std::string, uint32_t> ids_;
  TokenizerJson out_;
};

}  // namespace

TokenizerJson parse_tokenizer_json(std::string_view text, std::string_view place) {
  const json file = StrictParse(place)(text);
  return Reader(file, place).read();
}

}  // namespace rwkv::data
