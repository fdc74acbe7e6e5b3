#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "data/sampler.h"
#include "data/token_source.h"

namespace rwkv::data {

/// Opens the file that says which tokens of `text` are learned: one number a token, 1 where the
/// loss counts its prediction and 0 where it does not (the questions of a dialogue, padding). A
/// one-dimensional .npy of any integer type, or a file of bytes. Throws UserError, which begins
/// with `place`, for another length, another number, or a mask without a single 1.
std::unique_ptr<TokenSource> open_loss_mask(const std::string& path, const TokenSource& text,
                                            std::string_view place);

/// The weights of the targets that fill_windows() gives: target t of the window at offset o is
/// token o + 1 + t, and so is its mask. `weights`: offsets.size() * ctx_len, row-major.
void fill_loss_mask(const TokenSource& mask, std::span<const int64_t> offsets, int64_t ctx_len,
                    std::span<float> weights);

/// The same for the targets that fill_batch() gives.
void fill_loss_mask(const TokenSource& mask, const Sampler& sampler, uint64_t first_ordinal,
                    int64_t batch, int64_t ctx_len, std::span<float> weights);

}  // namespace rwkv::data
