#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "data/sampler.h"
#include "data/token_source.h"

namespace rwkv::data {

/// Fills `inputs` and `targets` (each batch * ctx_len, row-major) with samples first_ordinal ...
/// first_ordinal + batch - 1: row b holds tokens o ... o + ctx_len - 1 and o + 1 ... o + ctx_len
/// with o = sampler.offset(first_ordinal + b). With vocab_size > 0 a token outside [0, vocab_size)
/// is a UserError that names its place: an embedding must never see it.
void fill_batch(const TokenSource& source, const Sampler& sampler, uint64_t first_ordinal,
                int64_t batch, int64_t ctx_len, std::span<int64_t> inputs,
                std::span<int64_t> targets, int64_t vocab_size = 0);

/// The same for the windows that begin at `offsets`.
void fill_windows(const TokenSource& source, std::span<const int64_t> offsets, int64_t ctx_len,
                  std::span<int64_t> inputs, std::span<int64_t> targets, int64_t vocab_size = 0);

inline constexpr int64_t kValidationWindows = 1024;

/// Begins of `windows` evenly spaced windows of ctx_len + 1 tokens: k * (tokens - (ctx_len + 1)) /
/// windows, rounded down. The same ones every time, so that validation losses can be compared.
/// Throws UserError, which begins with `place`, when not even one fits.
std::vector<int64_t> validation_offsets(int64_t tokens, int64_t ctx_len, std::string_view place,
                                        int64_t windows = kValidationWindows);

}  // namespace rwkv::data
