#include "model/text_stream.h"

#include <algorithm>
#include <array>
#include <span>
#include <utility>

#include "data/base/error.h"

namespace rwkv::model {
namespace {

/// How many bytes at the end of `text` are the beginning of one of `stops`.
size_t possible_stop(std::string_view text, const std::vector<std::string>& stops) {
  size_t longest = 0;
  for (const std::string& stop : stops) {
    for (size_t n = std::min(stop.size() - 1, text.size()); n > longest; --n) {
      if (text.ends_with(std::string_view(stop).substr(0, n))) longest = n;
    }
  }
  return longest;
}

/// The bytes at the end of `tokens` that begin a character.
std::string open_character(const data::Vocabulary& vocabulary, const std::vector<int64_t>& tokens) {
  const auto last = std::span(tokens).last(std::min<size_t>(tokens.size(), 4));
  const std::string text = vocabulary.decode(last);
  return text.substr(text.size() - data::incomplete_utf8_tail(text));
}

}  // namespace

TextStream::TextStream(const data::Vocabulary& vocabulary, std::vector<std::string> stops,
                       const std::vector<int64_t>& started)
    : vocabulary_(vocabulary), stops_(std::move(stops)) {
  std::erase_if(stops_, [](const std::string& stop) { return stop.empty(); });
  pending_ = open_character(vocabulary, started);
}

std::string TextStream::release(size_t bytes) {
  std::string ready = pending_.substr(0, bytes);
  pending_.erase(0, bytes);
  text_ += ready;
  return ready;
}

std::string TextStream::add(int64_t id) {
  if (stopped_) return {};
  pending_ += vocabulary_.decode(std::array{id});
  size_t first = std::string::npos;
  for (const std::string& stop : stops_) first = std::min(first, pending_.find(stop));
  if (first != std::string::npos) {
    stopped_ = true;
    std::string ready = release(first);
    pending_.clear();
    return ready;
  }
  const size_t held =
      std::max(data::incomplete_utf8_tail(pending_), possible_stop(pending_, stops_));
  // A stop string may begin inside a character's bytes only if it was given so; do not cut there.
  const size_t ready = pending_.size() - held;
  return release(ready - data::incomplete_utf8_tail(std::string_view(pending_).substr(0, ready)));
}

std::string TextStream::finish() {
  std::string ready = release(pending_.size() - data::incomplete_utf8_tail(pending_));
  pending_.clear();
  return ready;
}

}  // namespace rwkv::model
