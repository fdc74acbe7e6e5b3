#include "trainer/text_loss.h"

#include <fmt/format.h>
#include <torch/torch.h>

#include <algorithm>
#include <cmath>

#include "trainer/exit_code.h"

namespace rwkv::trainer {
namespace {

constexpr int64_t kChunk = 256;             // tokens of a row in one forward pass
constexpr int64_t kMostLogits = 1LL << 24;  // of one forward pass: 64 MiB in float32
constexpr int64_t kMostRows = 64;

void check_ids(std::span<const int64_t> ids, int64_t vocab_size) {
  TORCH_CHECK(ids.size() >= 2, "text loss: ", ids.size(), " tokens; there must be two or more");
  const auto [low, high] = std::ranges::minmax(ids);
  TORCH_CHECK_INDEX(low >= 0 && high < vocab_size, "text loss: ids must lie in 0..", vocab_size - 1,
                    ", got ", low, "..", high);
}

/// `rows` windows that lie side by side, `stride` tokens apart.
struct Windows {
  std::span<const int64_t> ids;
  int64_t rows;
  int64_t stride;

  /// Tokens first ... first + length - 1 of every window, [rows,length].
  [[nodiscard]] at::Tensor tokens(int64_t first, int64_t length) const {
    const at::Tensor all = at::from_blob(const_cast<int64_t*>(ids.data()), {std::ssize(ids)},
                                         at::TensorOptions(at::kLong));
    return all.as_strided({rows, length}, {stride, 1}, first).contiguous();
  }
};

/// Nats [rows,length] of predicting the token after each of `inputs`.
at::Tensor nats_of(model::LanguageModel& model, const at::Tensor& inputs, const at::Tensor& targets,
                   model::State& state) {
  const at::Device device = model.parameters().front().device();
  const at::Tensor logits = model.forward(inputs.to(device), &state, model::Positions::kAll);
  const auto math = logits.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const at::Tensor log_p = at::log_softmax(logits, -1, math);
  const at::Tensor nats = -log_p.gather(-1, targets.to(device).unsqueeze(-1)).squeeze(-1);
  return nats.to(at::kCPU, at::kDouble);
}

/// Adds the loss of `windows`, `length` predicted tokens each, all from the empty state.
void add_windows(model::LanguageModel& model, const Windows& windows, int64_t length,
                 TextLoss& loss) {
  model::State state;
  for (int64_t first = 0; first < length; first += kChunk) {
    const int64_t n = std::min(kChunk, length - first);
    const at::Tensor nats =
        nats_of(model, windows.tokens(first, n), windows.tokens(first + 1, n), state).sum(0);
    const auto* values = nats.const_data_ptr<double>();
    for (int64_t t = 0; t < n; ++t) {
      const auto at = static_cast<size_t>(first + t);
      loss.tokens_at[at] += windows.rows;
      loss.nats_at[at] += values[t];
      loss.nats += values[t];
    }
    loss.tokens += windows.rows * n;
  }
}

void check_finite(const TextLoss& loss) {
  if (std::isfinite(loss.nats)) return;
  throw NotFiniteError(
      "the model's loss is not finite; the weights are damaged or training diverged");
}

}  // namespace

TextLoss loss_by_windows(model::LanguageModel& model, std::span<const int64_t> ids, int64_t ctx_len,
                         const LossProgress& progress) {
  const int64_t vocab_size = model.config().vocab_size;
  check_ids(ids, vocab_size);
  TORCH_CHECK(ctx_len > 0, "loss_by_windows: ctx_len ", ctx_len, " must be positive");
  const torch::NoGradGuard no_grad;
  const int64_t all = std::ssize(ids) - 1;
  const int64_t length = std::min(ctx_len, all);
  TextLoss loss;
  loss.tokens_at.assign(static_cast<size_t>(length), 0);
  loss.nats_at.assign(static_cast<size_t>(length), 0.0);
  const int64_t at_once =
      std::clamp<int64_t>(kMostLogits / (std::min(kChunk, length) * vocab_size), 1, kMostRows);
  for (int64_t done = 0; done < all;) {
    const int64_t whole = (all - done) / length;
    const Windows windows{.ids = ids.subspan(static_cast<size_t>(done)),
                          .rows = std::clamp<int64_t>(whole, 1, at_once),
                          .stride = length};
    add_windows(model, windows, whole > 0 ? length : all - done, loss);
    done = loss.tokens;
    check_finite(loss);
    if (progress) progress(done, all);
  }
  return loss;
}

TextLoss loss_by_stream(model::LanguageModel& model, std::span<const int64_t> ids,
                        const LossProgress& progress) {
  check_ids(ids, model.config().vocab_size);
  const torch::NoGradGuard no_grad;
  const int64_t all = std::ssize(ids) - 1;
  const Windows text{.ids = ids, .rows = 1, .stride = all};
  TextLoss loss;
  model::State state;
  while (loss.tokens < all) {
    const int64_t n = std::min(kChunk, all - loss.tokens);
    loss.nats += nats_of(model, text.tokens(loss.tokens, n), text.tokens(loss.tokens + 1, n), state)
                     .sum()
                     .item<double>();
    loss.tokens += n;
    check_finite(loss);
    if (progress) progress(loss.tokens, all);
  }
  return loss;
}

}  // namespace rwkv::trainer
