#include "data/loss_mask.h"

#include <fmt/format.h>

#include <algorithm>
#include <stdexcept>
#include <vector>

#include "data/base/error.h"

namespace rwkv::data {
namespace {

/// Every number must be 0 or 1, and one of them 1: found before the first step, not at the
/// thousandth.
void check_values(const TokenSource& mask, std::string_view place) {
  constexpr int64_t kChunk = 1 << 16;
  std::vector<int64_t> values(kChunk);
  bool learns = false;
  for (int64_t at = 0; at < mask.size(); at += kChunk) {
    const auto chunk =
        std::span(values).first(static_cast<size_t>(std::min(kChunk, mask.size() - at)));
    mask.read(at, chunk);
    const auto bad =
        std::ranges::find_if(chunk, [](int64_t value) { return value != 0 && value != 1; });
    if (bad != chunk.end()) {
      user_error("{}: {} holds {} for token {}; write 1 where a token is learned and 0 elsewhere",
                 place, mask.name(), *bad, at + (bad - chunk.begin()));
    }
    learns = learns || std::ranges::find(chunk, 1) != chunk.end();
  }
  if (!learns) {
    user_error(
        "{}: {} is 0 everywhere, so nothing would be learned; write 1 for the tokens to learn",
        place, mask.name());
  }
}

}  // namespace

std::unique_ptr<TokenSource> open_loss_mask(const std::string& path, const TokenSource& text,
                                            std::string_view place) {
  const bool is_npy = path.ends_with(".npy");
  auto mask = open_tokens({.path = path, .kind = is_npy ? SourceKind::kNpy : SourceKind::kBytes});
  if (mask->size() != text.size()) {
    user_error("{}: {} has {} numbers, {} has {} tokens; write one number for each token", place,
               mask->name(), mask->size(), text.name(), text.size());
  }
  check_values(*mask, place);
  return mask;
}

void fill_loss_mask(const TokenSource& mask, std::span<const int64_t> offsets, int64_t ctx_len,
                    std::span<float> weights) {
  if (ctx_len < 1 || std::ssize(weights) != std::ssize(offsets) * ctx_len) {
    throw std::logic_error(fmt::format("fill_loss_mask: {} windows of {} into {} weights",
                                       offsets.size(), ctx_len, weights.size()));
  }
  const auto row_size = static_cast<size_t>(ctx_len);
  std::vector<int64_t> row(row_size);
  for (size_t b = 0; b < offsets.size(); ++b) {
    mask.read(offsets[b] + 1, row);
    std::ranges::transform(row, weights.subspan(b * row_size).begin(),
                           [](int64_t value) { return static_cast<float>(value); });
  }
}

void fill_loss_mask(const TokenSource& mask, const Sampler& sampler, uint64_t first_ordinal,
                    int64_t batch, int64_t ctx_len, std::span<float> weights) {
  if (batch < 0) throw std::logic_error(fmt::format("fill_loss_mask: batch {}", batch));
  std::vector<int64_t> offsets(static_cast<size_t>(batch));
  std::ranges::generate(offsets, [&, n = first_ordinal]() mutable { return sampler.offset(n++); });
  fill_loss_mask(mask, offsets, ctx_len, weights);
}

}  // namespace rwkv::data
