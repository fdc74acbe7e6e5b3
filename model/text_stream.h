#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "data/vocabulary.h"

namespace rwkv::model {

/// Turns tokens into text that may be shown at once: never a part of a UTF-8 character, and nothing
/// that may yet turn out to be the start of a stop string.
class TextStream {
 public:
  /// `stops`: strings that end the text; empty ones are ignored. `started`: tokens that came before
  /// and may end inside a character, which the first tokens then complete.
  TextStream(const data::Vocabulary& vocabulary, std::vector<std::string> stops,
             const std::vector<int64_t>& started = {});

  /// Takes a token and returns the text that became ready, often none.
  std::string add(int64_t id);
  /// True once a stop string was found: the text ended before it.
  [[nodiscard]] bool stopped() const { return stopped_; }
  /// The text held back that turned out to be no stop string. A character that was never completed
  /// is left out.
  std::string finish();
  /// All text that add() and finish() returned.
  [[nodiscard]] const std::string& text() const { return text_; }

 private:
  std::string release(size_t bytes);

  const data::Vocabulary& vocabulary_;
  std::vector<std::string> stops_;
  std::string pending_;
  std::string text_;
  bool stopped_ = false;
};

}  // namespace rwkv::model
