#include "data/qa_mixture.h"

#include <fmt/format.h>

#include <algorithm>
#include <stdexcept>
#include <utility>
#include <vector>

#include "data/batch_loader.h"

namespace rwkv::data {
namespace {

SamplerConfig random_windows(uint64_t seed) {
  SamplerConfig config;
  config.kind = SamplerKind::kRandom;
  config.seed = seed;
  return config;
}

}  // namespace

QaMixture::QaMixture(std::shared_ptr<const TokenSource> questions, const Sampler& sampler,
                     std::shared_ptr<const TokenSource> general, int64_t ctx_len, bool answers_only,
                     uint64_t seed, const QaPattern& pattern)
    : questions_(std::move(questions)),
      general_(std::move(general)),
      sampler_(sampler),
      general_sampler_(random_windows(seed), general_->size(), ctx_len, general_->name()),
      ctx_len_(ctx_len),
      answers_only_(answers_only),
      pattern_(pattern) {}

void QaMixture::fill_batch(uint64_t first_ordinal, int64_t batch, std::span<int64_t> inputs,
                           std::span<int64_t> targets, std::span<float> mask,
                           int64_t vocab_size) const {
  const int64_t wanted = batch * ctx_len_;
  if (std::ssize(inputs) != wanted || std::ssize(targets) != wanted || std::ssize(mask) != wanted) {
    throw std::logic_error(
        fmt::format("QaMixture: {} windows of {} into {} inputs, {} targets and a mask of {}",
                    batch, ctx_len_, inputs.size(), targets.size(), mask.size()));
  }
  const auto row_size = static_cast<size_t>(ctx_len_);
  for (size_t row = 0; row < static_cast<size_t>(batch); ++row) {
    fill_row(first_ordinal + row, inputs.subspan(row * row_size, row_size),
             targets.subspan(row * row_size, row_size), mask.subspan(row * row_size, row_size),
             vocab_size);
  }
}

void QaMixture::fill_row(uint64_t ordinal, std::span<int64_t> inputs, std::span<int64_t> targets,
                         std::span<float> mask, int64_t vocab_size) const {
  std::ranges::fill(mask, 1.0F);
  const QaDraw draw = qa_draw(ordinal);
  if (!draw.general) {
    const int64_t offset = sampler_.offset(draw.ordinal);
    fill_windows(*questions_, std::span(&offset, 1), ctx_len_, inputs, targets, vocab_size);
    if (!answers_only_) return;
    std::vector<int64_t> window(inputs.begin(), inputs.end());
    window.push_back(targets.back());
    if (qa_mask(window, mask, pattern_)) return;
    std::ranges::fill(mask, 1.0F);
  }
  const int64_t offset = general_sampler_.offset(ordinal);
  fill_windows(*general_, std::span(&offset, 1), ctx_len_, inputs, targets, vocab_size);
}

}  // namespace rwkv::data
