#include "data/batch_loader.h"

#include <fmt/format.h>

#include <algorithm>
#include <stdexcept>

#include "data/base/error.h"

namespace rwkv::data {

void fill_batch(const TokenSource& source, const Sampler& sampler, uint64_t first_ordinal,
                int64_t batch, int64_t ctx_len, std::span<int64_t> inputs,
                std::span<int64_t> targets, int64_t vocab_size) {
  if (batch < 0) throw std::logic_error(fmt::format("fill_batch: batch {}", batch));
  std::vector<int64_t> offsets(static_cast<size_t>(batch));
  std::ranges::generate(offsets, [&, n = first_ordinal]() mutable { return sampler.offset(n++); });
  fill_windows(source, offsets, ctx_len, inputs, targets, vocab_size);
}

void fill_windows(const TokenSource& source, std::span<const int64_t> offsets, int64_t ctx_len,
                  std::span<int64_t> inputs, std::span<int64_t> targets, int64_t vocab_size) {
  const int64_t wanted = std::ssize(offsets) * ctx_len;
  if (ctx_len < 1 || std::ssize(inputs) != wanted || std::ssize(targets) != wanted) {
    throw std::logic_error(
        fmt::format("fill_windows: {} windows of {} into {} inputs and {} targets", offsets.size(),
                    ctx_len, inputs.size(), targets.size()));
  }
  const auto row_size = static_cast<size_t>(ctx_len);
  std::vector<int64_t> window(row_size + 1);
  for (size_t b = 0; b < offsets.size(); ++b) {
    source.read(offsets[b], window);
    if (vocab_size > 0) {
      const auto bad = std::ranges::find_if(
          window, [vocab_size](int64_t token) { return token < 0 || token >= vocab_size; });
      if (bad != window.end()) {
        user_error(
            "{}: token {} is {}, outside the model's vocabulary of {}; set vocab_size to that of "
            "the data, or rebuild the data with the model's tokenizer",
            source.name(), offsets[b] + (bad - window.begin()), *bad, vocab_size);
      }
    }
    std::copy_n(window.begin(), row_size, inputs.subspan(b * row_size).begin());
    std::copy_n(window.begin() + 1, row_size, targets.subspan(b * row_size).begin());
  }
}

std::vector<int64_t> validation_offsets(int64_t tokens, int64_t ctx_len, std::string_view place,
                                        int64_t windows) {
  if (windows < 1 || ctx_len < 1) {
    throw std::logic_error(fmt::format("validation_offsets: {} windows of {}", windows, ctx_len));
  }
  if (tokens <= ctx_len) {
    user_error(
        "{}: {} tokens hold no validation window of ctx_len {} + 1; use more validation data or a "
        "smaller ctx_len",
        place, tokens, ctx_len);
  }
  __extension__ using Wide = __int128;
  std::vector<int64_t> offsets(static_cast<size_t>(windows));
  for (int64_t k = 0; k < windows; ++k) {
    offsets[static_cast<size_t>(k)] =
        static_cast<int64_t>(static_cast<Wide>(k) * (tokens - (ctx_len + 1)) / windows);
  }
  return offsets;
}

}  // namespace rwkv::data
