#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "model/generate.h"

namespace rwkv::model {

/// Throws UserError where save_context() could not or should not write `file`: no folder, or a file
/// that is no state file, such as the weights that are being read.
void check_state_target(const std::filesystem::path& file);

/// Writes `context` as a safetensors file, atomically: `state.{i}.att_x`, `.aa`, `.bb`, `.pp`,
/// `.ffn_x` for the rows of block i (other rows by their own name after `state.`), `logits` [V],
/// `tokens` [n] i64, `penalty.ids` i64 and `penalty.counts` f64; as metadata n_layer, n_embd,
/// vocab_size, the fingerprint of the weights, and the position in the stream of random numbers.
/// Going on from the file equals going on without it, bit for bit. `context` must have logits and
/// a state of one sequence. Throws UserError when the file cannot be written.
void save_context(const Context& context, const LanguageModel& model,
                  const std::filesystem::path& file);

struct LoadedContext {
  Context context;
  std::string warning;  // empty, or that the file was written with other weights
};

/// Reads such a file for `model`. Throws UserError for a file that is none, is damaged, or holds
/// the state of a model of other sizes.
LoadedContext load_context(LanguageModel& model, const std::filesystem::path& file);

/// A number that tells weights apart: a CRC-32C over names, shapes and the first values of every
/// parameter. It reads a few megabytes even of a large model.
uint32_t weights_fingerprint(const LanguageModel& model);

}  // namespace rwkv::model
