#pragma once

#include <cstdint>
#include <functional>

#include "data/token_source.h"
#include "model/language_model.h"

namespace rwkv::trainer {

struct ValidationPlan {
  int64_t windows =
      1024;  // spread evenly over the text, at most as many as fit without looking twice
  int64_t ctx_len = 0;
  int64_t micro_bsz = 1;                         // windows per forward pass
  const data::TokenSource* loss_mask = nullptr;  // which tokens count (data/loss_mask.h); null: all
  /// Forward passes are dealt out over `world_size` processes; `sum_over_ranks` adds up a number.
  int64_t rank = 0;
  int64_t world_size = 1;
  std::function<double(double)> sum_over_ranks = [](double own) { return own; };
};

/// Throws UserError where none of the windows holds a token that plan.loss_mask counts.
void check_validation_mask(const data::TokenSource& text, const ValidationPlan& plan);

/// Mean loss in nats per token over evenly spread windows of ctx_len + 1 tokens, each from the
/// empty state; with a mask, per token that counts. Throws UserError when none of them counts.
/// `on_progress(done, all)` is called after every forward pass, with numbers of
/// windows.
double validation_loss(model::LanguageModel& model, const data::TokenSource& text,
                       const ValidationPlan& plan,
                       const std::function<void(int64_t, int64_t)>& on_progress = {});

}  // namespace rwkv::trainer
