#include "trainer/memory_model.h"

#include <algorithm>
#include <array>
#include <string_view>
#include <vector>

namespace rwkv::trainer {
namespace {

// --- what the operators keep for the backward pass: change these with the operators ---

/// Widths that tensors have: the residual stream C, time-mix A, channel-mix F.
enum class Width { kEmbd, kAtt, kFfn };

/// Tensors [tokens, width] that the forward pass of a part of a block keeps.
struct SavedTensor {
  std::string_view name;
  Width width;
  double count = 1;
  bool is_float32 = false;  // in every precision
};

constexpr std::array kSavedByTimeMix = {
    SavedTensor{"input of ln1", Width::kEmbd},
    SavedTensor{"output of ln1, which the mixes read", Width::kEmbd},
    SavedTensor{"its shift by a token", Width::kEmbd},
    SavedTensor{"mixes for k, v and r, which the products read", Width::kEmbd, 3},
    SavedTensor{"k and v, which wkv reads", Width::kAtt, 2},
    SavedTensor{"wkv's state before each tile of 32 tokens", Width::kAtt, 5.0 / 32, true},
    SavedTensor{"y of wkv", Width::kAtt},
    SavedTensor{"sigmoid of r", Width::kAtt},
    SavedTensor{"their product, which the output matrix reads", Width::kAtt}};

constexpr std::array kSavedByChannelMix = {
    SavedTensor{"input of ln2", Width::kEmbd},
    SavedTensor{"output of ln2, which the mixes read", Width::kEmbd},
    SavedTensor{"its shift by a token", Width::kEmbd},
    SavedTensor{"mixes for k and r, which the products read", Width::kEmbd, 2},
    SavedTensor{"relu of k", Width::kFfn},
    SavedTensor{"its square, which the value matrix reads", Width::kFfn},
    SavedTensor{"sigmoid of r", Width::kEmbd},
    SavedTensor{"product of the value matrix", Width::kEmbd}};

// Dropout keeps one mask of bytes a sum, two in a block.
constexpr double kDropoutBytesPerBlock = 2;

// Of the head: the input of ln_out and its output.
constexpr double kSavedByHead = 2;

// Loss, a token and entry of the vocabulary, in float32: log-softmax and, in the backward pass,
// its gradient; in 16 bits that gradient once more, rounded.
constexpr double kLossTensorsFloat32 = 2;
constexpr double kLossTensors16 = 1;
// While the loss is computed: logits and log-softmax.
constexpr double kLogits = 1;
constexpr double kLogSoftmax = 1;

// Live at once in the backward pass of a block, beyond what was kept: gradients of the hidden layer
// of the channel mix, and of the residual stream and the mixes.
constexpr double kBackwardFfnTensors = 2;
constexpr double kBackwardEmbdTensors = 3;

// Elements of 16-bit gradients that Adam widens to fp32 at a time (trainer/optimizer.cpp).
constexpr double kWidenedAtATime = 1 << 25;

// --- the arithmetic ---

constexpr double kFloat32Bytes = 4;

double width_of(const model::ModelConfig& m, Width width) {
  switch (width) {
    case Width::kAtt:
      return static_cast<double>(m.att_size());
    case Width::kFfn:
      return static_cast<double>(m.ffn_size());
    case Width::kEmbd:
      break;
  }
  return static_cast<double>(m.n_embd);
}

bool is_16_bit(Precision precision) {
  return precision == Precision::kBf16 || precision == Precision::kFp16;
}

double element_bytes(const MemoryQuestion& q) { return is_16_bit(q.precision) ? 2 : kFloat32Bytes; }

template <size_t N>
double saved_bytes(const std::array<SavedTensor, N>& tensors, const MemoryQuestion& q) {
  double bytes = 0;
  for (const SavedTensor& t : tensors) {
    bytes +=
        t.count * width_of(q.model, t.width) * (t.is_float32 ? kFloat32Bytes : element_bytes(q));
  }
  return bytes;
}

/// Of one token, in the order of the layers.
double saved_by_layer(const MemoryQuestion& q, int64_t layer) {
  const bool second_channel_mix = layer == 0 && q.model.pre_ffn;
  return (second_channel_mix ? saved_bytes(kSavedByChannelMix, q)
                             : saved_bytes(kSavedByTimeMix, q)) +
         saved_bytes(kSavedByChannelMix, q) +
         (q.dropout ? kDropoutBytesPerBlock * static_cast<double>(q.model.n_embd) : 0);
}

double backward_bytes(const MemoryQuestion& q) {
  return (kBackwardFfnTensors * static_cast<double>(q.model.ffn_size()) +
          kBackwardEmbdTensors * static_cast<double>(q.model.n_embd)) *
         element_bytes(q);
}

int64_t layer_parameters(const model::ModelConfig& m, int64_t layer) {
  const int64_t C = m.n_embd;
  const int64_t A = m.att_size();
  const int64_t F = m.ffn_size();
  const int64_t channel_mix = 2 * C * F + C * C + 2 * C;
  const int64_t time_mix = 4 * C * A + 2 * A + 3 * C;
  const int64_t first = layer == 0 && m.pre_ffn ? channel_mix : time_mix;
  return first + channel_mix + 4 * C + (layer == 0 ? 2 * C : 0);
}

/// Memory that is there all the time, and how gradients come and go.
struct Fixed {
  MemoryParts parts;
  double gradient_bytes = 0;  // of a parameter, while the backward pass makes them
  double kept_gradients = 0;  // bytes that stay through the whole step
};

Fixed fixed_memory(const MemoryQuestion& q) {
  const auto n = static_cast<double>(parameter_count(q.model));
  const auto shared = static_cast<double>(q.devices);
  const bool half = is_16_bit(q.precision);
  Fixed fixed;
  fixed.parts.weights = n * element_bytes(q) / (q.zero >= 3 ? shared : 1);
  fixed.parts.masters = half ? n * kFloat32Bytes / (q.zero >= 1 ? shared : 1) : 0;
  fixed.parts.moments = 2 * n * kFloat32Bytes / (q.zero >= 1 ? shared : 1);
  fixed.gradient_bytes = element_bytes(q);
  if (q.devices > 1) {
    // Buckets are made once and stay.
    fixed.kept_gradients = n * element_bytes(q) / (q.zero >= 2 ? shared : 1);
    fixed.gradient_bytes = 0;
  }
  if (q.grad_accumulates) {
    // fp32 gradients are their own sums; 16-bit ones are added into fp32 sums.
    fixed.kept_gradients =
        std::max(fixed.kept_gradients, n * kFloat32Bytes / (q.zero >= 2 ? shared : 1));
    if (!half) fixed.gradient_bytes = 0;
  }
  return fixed;
}

/// The moments of a step, each as activations, logits, gradients and workspace.
std::vector<MemoryParts> moments_of_step(const MemoryQuestion& q, const Fixed& fixed) {
  const auto tokens = static_cast<double>(q.tokens());
  const auto C = static_cast<double>(q.model.n_embd);
  const auto V = static_cast<double>(q.model.vocab_size);
  const double element = element_bytes(q);
  const bool half = is_16_bit(q.precision);
  const int64_t L = q.model.n_layer;
  const double embedding_gradient = V * C * fixed.gradient_bytes;
  // ZeRO-3 gathers the weights of the block it works on, and of the next one meanwhile.
  const double gathered =
      q.zero >= 3 ? 2 * static_cast<double>(layer_parameters(q.model, L - 1)) * element : 0;

  std::vector<double> kept(static_cast<size_t>(L) + 1);  // activations of the first i layers
  for (int64_t i = 0; i < L; ++i) {
    const double layer = q.grad_cp ? C * element : saved_by_layer(q, i);
    kept[static_cast<size_t>(i) + 1] = kept[static_cast<size_t>(i)] + tokens * layer;
  }
  const double head = tokens * kSavedByHead * C * element;
  const double head_qk =
      q.model.head_qk > 0 ? 3 * tokens * static_cast<double>(q.ctx_len) * element : 0;

  std::vector<MemoryParts> moments;
  const auto add = [&](double activations, double logits, double gradients, double workspace) {
    moments.push_back({.gradients = fixed.kept_gradients + gradients,
                       .activations = activations,
                       .logits = logits,
                       .workspace = workspace + gathered});
  };
  const double all = kept.back() + head + head_qk;
  add(all, tokens * V * (kLogits * element + kLogSoftmax * kFloat32Bytes), 0, 0);
  add(all,
      tokens * V * (kLossTensorsFloat32 * kFloat32Bytes + (half ? kLossTensors16 * element : 0)), 0,
      0);
  // The product with the head: gradients of logits, of the head and of its input.
  double gradients = embedding_gradient;
  add(all, tokens * V * element, gradients, tokens * C * element);
  for (int64_t i = L - 1; i >= 0; --i) {
    gradients += static_cast<double>(layer_parameters(q.model, i)) * fixed.gradient_bytes;
    const double again = q.grad_cp ? tokens * saved_by_layer(q, i) : 0;
    add(kept[static_cast<size_t>(i) + 1] + again, 0, gradients, tokens * backward_bytes(q));
  }
  gradients += embedding_gradient;
  const double widened =
      half && !q.grad_accumulates
          ? kFloat32Bytes *
                std::min(kWidenedAtATime + V * C, static_cast<double>(parameter_count(q.model)))
          : 0;
  add(0, 0, gradients, widened);
  return moments;
}

}  // namespace

MemoryQuestion memory_question(const RunConfig& config) {
  const TrainConfig& t = config.train;
  return {.model = config.model,
          .precision = t.precision,
          .ctx_len = t.ctx_len,
          .micro_bsz = t.micro_bsz,
          .grad_accumulates = t.grad_accum > 1,
          .grad_cp = t.grad_cp,
          .dropout = t.dropout > 0};
}

int64_t parameter_count(const model::ModelConfig& m) {
  int64_t count = 2 * m.vocab_size * m.n_embd + 2 * m.n_embd + 2 * m.n_embd * m.head_qk;
  for (int64_t layer = 0; layer < m.n_layer; ++layer) count += layer_parameters(m, layer);
  return count;
}

int64_t product_weights(const model::ModelConfig& m) {
  const int64_t C = m.n_embd;
  const int64_t channel_mix = 2 * C * m.ffn_size() + C * C;
  const int64_t time_mix = 4 * C * m.att_size();
  const int64_t time_mixes = m.n_layer - (m.pre_ffn ? 1 : 0);
  return time_mixes * time_mix + (m.n_layer + (m.pre_ffn ? 1 : 0)) * channel_mix +
         m.vocab_size * C + 2 * C * m.head_qk;
}

double activation_bytes_per_token_and_layer(const MemoryQuestion& q) {
  double bytes = 0;
  for (int64_t i = 0; i < q.model.n_layer; ++i) bytes += saved_by_layer(q, i);
  return bytes / static_cast<double>(q.model.n_layer);
}

MemoryParts peak_memory(const MemoryQuestion& question) {
  const Fixed fixed = fixed_memory(question);
  const std::vector<MemoryParts> moments = moments_of_step(question, fixed);
  MemoryParts fullest = *std::ranges::max_element(moments, {}, &MemoryParts::total);
  fullest.weights = fixed.parts.weights;
  fullest.masters = fixed.parts.masters;
  fullest.moments = fixed.parts.moments;
  return fullest;
}

int64_t largest_micro_bsz(MemoryQuestion question, double bytes) {
  const auto fits = [&](int64_t micro_bsz) {
    question.micro_bsz = micro_bsz;
    return peak_memory(question).total() <= bytes;
  };
  if (!fits(1)) return 0;
  int64_t good = 1;
  constexpr int64_t kMost = 65536;
  while (good < kMost && fits(2 * good)) good *= 2;
  int64_t bad = 2 * good;
  while (bad - good > 1) {
    const int64_t middle = good + (bad - good) / 2;
    (fits(middle) ? good : bad) = middle;
  }
  return good;
}

}  // namespace rwkv::trainer
