#include "model/inference/rwkv4_inference.h"

#include <torch/torch.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "cuda/inference.h"
#include "cuda/ops.h"
#include "cuda/wkv4_step.h"
#include "data/base/error.h"
#include "model/blocks.h"
#include "model/formats/tensor_names.h"
#include "model/head_qk.h"
#include "model/inference/rwkv4_weights.h"

namespace rwkv::model {
namespace {

/// Up to this many tokens of one sequence run one by one: reading the weights T times costs less
/// than the parallel mode's matrix products, most of all where weights must be widened for them.
constexpr int64_t kStepTokens = 4;
constexpr int64_t kCalibrationTokens = 128;

const float* data(const at::Tensor& tensor) { return tensor.const_data_ptr<float>(); }
float* mutable_data(const at::Tensor& tensor) { return tensor.mutable_data_ptr<float>(); }

/// The row `name` of the state as [B,size], ready to be written in place: a new one of `fill` where
/// nothing has been seen, a copy where somebody else may look at it.
float* row_in_place(State& state, const std::string& name, int64_t B, int64_t size, float fill) {
  at::Tensor& row = state.rows[name];
  if (!row.defined()) {
    row = at::full({B, size}, fill, at::kFloat);
    return mutable_data(row);
  }
  TORCH_CHECK(row.dim() == 2 && row.size(0) == B && row.size(1) == size, "state row ", name,
              " must be [", B, ",", size, "], got ", row.sizes());
  const bool is_ours = row.scalar_type() == at::kFloat && row.is_cpu() && row.is_contiguous() &&
                       row.use_count() == 1 && row.storage().use_count() == 1;
  if (!is_ours) row = row.to(at::kCPU, at::kFloat).contiguous().clone();
  return mutable_data(row);
}

/// Scratch rows of N tokens.
struct Scratch {
  Scratch(const ModelConfig& config, int64_t N)
      : x(at::empty({N, config.n_embd})),
        mixed(at::empty({3, N, config.n_embd})),
        k(at::empty({N, config.att_size()})),
        v(at::empty({N, config.att_size()})),
        r(at::empty({N, std::max(config.att_size(), config.n_embd)})),
        y(at::empty({N, config.att_size()})),
        hidden(at::empty({N, config.ffn_size()})),
        out(at::empty({N, config.n_embd})) {}

  at::Tensor x, mixed, k, v, r, y, hidden, out;
};

class Rwkv4Inference : public InferenceModel {
 public:
  Rwkv4Inference(formats::TensorFile file, const InferenceOptions& options,
                 const LoadProgress& progress)
      : file_(std::move(file)), config_(config_of(file_)) {
    config_.head_qk_reduce = options.head_qk_reduce;
    rescale_layer_ = options.rescale_layer.value_or(names_fp16(options.strategy) ? 6 : 0);
    TORCH_CHECK(rescale_layer_ >= 0, "rescale_layer is ", rescale_layer_, "; use 0 or more");
    slots_ = plan_strategy(options.strategy, config_.n_layer);
    for (const Slot& slot : slots_) {
      if (slot.device == "cpu") continue;
      user_error(
          "--strategy: '{}' wants the device {}, on which this program does not run inference yet; "
          "use cpu stages, e.g. 'cpu bf16'",
          printable(options.strategy), slot.device);
    }
    weights_ = load_rwkv4_weights(file_, config_, slots_, progress);
    // So that others see the device, and that this is another model than one with other weights.
    for (const auto& [name, vector] : weights_.vectors) {
      std::string plain = name;
      std::replace(plain.begin(), plain.end(), '.', '_');
      register_parameter(plain, vector, /*requires_grad=*/false);
    }
    if (config_.head_qk > 0) {
      head_q_ = linear(config_.n_embd, config_.head_qk);
      head_k_ = linear(config_.n_embd, config_.head_qk);
      const torch::NoGradGuard no_grad;
      head_q_->weight.copy_(weights_.head_q);
      head_k_->weight.copy_(weights_.head_k);
    }
    step_scratch_ = std::make_unique<Scratch>(config_, 1);
  }

  at::Tensor forward(const at::Tensor& ids_BT, State* state, Positions positions) override;
  using LanguageModel::forward;
  [[nodiscard]] const ModelConfig& config() const override { return config_; }
  [[nodiscard]] int64_t weight_bytes() const override;

  /// Fits the scales of i8-seed to text that the model writes.
  void calibrate();

 private:
  void check_ids(const at::Tensor& ids_BT) const;
  /// One token of one sequence; the logits go to `logits` [V] unless it is null.
  void step(int64_t id, State& state, float* logits);
  void step_time_mix(const BlockWeights& block, State& state, float scale);
  void step_channel_mix(const ChannelMixWeights& w, const NormWeights& norm, State& state,
                        float scale);
  /// All blocks for [B,T] at once: the residual stream [B*T,C].
  at::Tensor run_blocks(const at::Tensor& ids_BT, State& state);
  void run_time_mix(const BlockWeights& block, State& state, int64_t B, Scratch& s, float scale);
  void run_channel_mix(const ChannelMixWeights& w, const NormWeights& norm, State& state, int64_t B,
                       Scratch& s, float scale);
  /// norm_mix() for each of B sequences, which continue the state row `name`.
  void norm_mix(const NormWeights& norm, State& state, const std::string& name, int64_t B,
                std::initializer_list<at::Tensor> mix, Scratch& s);
  at::Tensor head(const at::Tensor& ids_BT, const at::Tensor& x, State& state, Positions positions);

  void product(WeightMatrix& matrix, const at::Tensor& x, at::Tensor out) {
    if (calibrating_) matrix.calibrate(x);
    if (x.size(0) > 1 || calibrating_) return matrix.multiply_rows(x, out);
    matrix.multiply(data(x), mutable_data(out), batch_);
    run_batch();
  }
  void run_batch() {
    ops::matvec(batch_);
    batch_.clear();
  }
  [[nodiscard]] float scale_of(size_t layer) const {
    if (rescale_layer_ == 0) return 1;
    return std::ldexp(1.0F, -static_cast<int>(static_cast<int64_t>(layer) / rescale_layer_));
  }
  /// Whether the residual stream is halved after this layer.
  [[nodiscard]] bool halves_after(size_t layer) const {
    return rescale_layer_ > 0 && (static_cast<int64_t>(layer) + 1) % rescale_layer_ == 0;
  }

  formats::TensorFile file_;  // mapped for as long as layers are read from it
  ModelConfig config_;
  std::vector<Slot> slots_;
  int64_t rescale_layer_ = 0;
  Rwkv4Weights weights_;
  torch::nn::Linear head_q_{nullptr}, head_k_{nullptr};
  std::unique_ptr<Scratch> step_scratch_;
  std::vector<ops::Matvec> batch_;
  bool calibrating_ = false;
};

void Rwkv4Inference::check_ids(const at::Tensor& ids_BT) const {
  TORCH_CHECK(ids_BT.dim() == 2 && ids_BT.numel() > 0, "ids must be [B,T] with B, T >= 1, got ",
              ids_BT.sizes());
  TORCH_CHECK(ids_BT.scalar_type() == at::kLong && ids_BT.is_cpu(),
              "ids must be int64 on the CPU, got ", ids_BT.scalar_type(), " on ", ids_BT.device());
  const auto [low, high] = at::aminmax(ids_BT);
  TORCH_CHECK_INDEX(low.item<int64_t>() >= 0 && high.item<int64_t>() < config_.vocab_size,
                    "ids must lie in 0..", config_.vocab_size - 1, ", got ", low.item<int64_t>(),
                    "..", high.item<int64_t>());
}

at::Tensor Rwkv4Inference::forward(const at::Tensor& ids_BT, State* state, Positions positions) {
  const torch::NoGradGuard no_grad;
  check_ids(ids_BT);
  State own;
  State& carried = state == nullptr ? own : *state;
  const int64_t B = ids_BT.size(0), T = ids_BT.size(1);
  if (B > 1 || T > kStepTokens || config_.head_qk > 0 || calibrating_) {
    const at::Tensor x = run_blocks(ids_BT, carried);
    return head(ids_BT, x, carried, positions);
  }
  const bool all = positions == Positions::kAll;
  const at::Tensor logits = at::empty({1, all ? T : 1, config_.vocab_size}, at::kFloat);
  const at::Tensor ids = ids_BT.contiguous();
  for (int64_t t = 0; t < T; ++t) {
    float* row = all ? mutable_data(logits) + t * config_.vocab_size : mutable_data(logits);
    step(ids.const_data_ptr<int64_t>()[t], carried, all || t == T - 1 ? row : nullptr);
  }
  return logits;
}

void Rwkv4Inference::step(int64_t id, State& state, float* logits) {
  const int64_t C = config_.n_embd;
  float* x = mutable_data(step_scratch_->x);
  weights_.emb->copy(id, x);
  ops::layer_norm(x, data(weights_.ln0.weight), data(weights_.ln0.bias), x, 1, C);
  for (size_t layer = 0; layer < weights_.blocks.size(); ++layer) {
    const BlockWeights& block = weights_.blocks[layer];
    const float scale = scale_of(layer);
    if (block.att) {
      step_time_mix(block, state, scale);
    } else {
      step_channel_mix(*block.ffn_pre, block.ln1, state, scale);
    }
    step_channel_mix(block.ffn, block.ln2, state, scale);
    if (halves_after(layer)) ops::add_scaled(x, x, -0.5F, C);
  }
  if (logits == nullptr) return;
  float* z = mutable_data(step_scratch_->out);
  ops::layer_norm(x, data(weights_.ln_out.weight), data(weights_.ln_out.bias), z, 1, C);
  weights_.head->multiply(z, logits, batch_);
  run_batch();
}

void Rwkv4Inference::step_time_mix(const BlockWeights& block, State& state, float scale) {
  const TimeMixWeights& w = *block.att;
  Scratch& s = *step_scratch_;
  norm_mix(block.ln1, state, w.name + ".xx", 1, {w.time_mix_k, w.time_mix_v, w.time_mix_r}, s);
  const int64_t C = config_.n_embd, A = config_.att_size();
  const float* mixed = data(s.mixed);
  w.key->multiply(mixed, mutable_data(s.k), batch_);
  w.value->multiply(mixed + C, mutable_data(s.v), batch_);
  w.receptance->multiply(mixed + 2 * C, mutable_data(s.r), batch_);
  run_batch();
  ops::wkv4_step(
      {data(w.decay), data(w.time_first), data(s.k), data(s.v),
       row_in_place(state, w.name + ".aa", 1, A, 0), row_in_place(state, w.name + ".bb", 1, A, 0),
       row_in_place(state, w.name + ".pp", 1, A, ops::kWkvEmptyExponent), mutable_data(s.y), A});
  ops::gate(data(s.r), mutable_data(s.y), A);
  w.output->multiply(data(s.y), mutable_data(s.out), batch_);
  run_batch();
  ops::add_scaled(mutable_data(s.x), data(s.out), scale, C);
}

void Rwkv4Inference::step_channel_mix(const ChannelMixWeights& w, const NormWeights& norm,
                                      State& state, float scale) {
  Scratch& s = *step_scratch_;
  norm_mix(norm, state, w.name + ".xx", 1, {w.time_mix_k, w.time_mix_r}, s);
  const int64_t C = config_.n_embd;
  w.key->multiply(data(s.mixed), mutable_data(s.hidden), batch_);
  w.receptance->multiply(data(s.mixed) + C, mutable_data(s.r), batch_);
  run_batch();
  ops::relu_square(mutable_data(s.hidden), config_.ffn_size());
  w.value->multiply(data(s.hidden), mutable_data(s.out), batch_);
  run_batch();
  ops::add_gated(mutable_data(s.x), data(s.r), data(s.out), scale, C);
}

void Rwkv4Inference::norm_mix(const NormWeights& norm, State& state, const std::string& name,
                              int64_t B, std::initializer_list<at::Tensor> mix, Scratch& s) {
  const int64_t C = config_.n_embd, N = s.x.size(0), T = N / B;
  float* last = row_in_place(state, name, B, C, 0);
  for (int64_t b = 0; b < B; ++b) {
    ops::NormMix in{data(s.x) + b * T * C, T, C, data(norm.weight), data(norm.bias), last + b * C};
    for (const at::Tensor& m : mix) {
      const auto n = static_cast<size_t>(in.outputs++);
      in.mix[n] = data(m);
      in.out[n] = mutable_data(s.mixed) + static_cast<int64_t>(n) * N * C + b * T * C;
    }
    ops::norm_mix(in);
  }
}

at::Tensor Rwkv4Inference::run_blocks(const at::Tensor& ids_BT, State& state) {
  const int64_t B = ids_BT.size(0), C = config_.n_embd, N = ids_BT.numel();
  Scratch s(config_, N);
  const at::Tensor ids = ids_BT.contiguous();
  for (int64_t n = 0; n < N; ++n) {
    weights_.emb->copy(ids.const_data_ptr<int64_t>()[n], mutable_data(s.x) + n * C);
  }
  float* x = mutable_data(s.x);
  ops::layer_norm(x, data(weights_.ln0.weight), data(weights_.ln0.bias), x, N, C);
  for (size_t layer = 0; layer < weights_.blocks.size(); ++layer) {
    const BlockWeights& block = weights_.blocks[layer];
    const float scale = scale_of(layer);
    if (block.att) {
      run_time_mix(block, state, B, s, scale);
    } else {
      run_channel_mix(*block.ffn_pre, block.ln1, state, B, s, scale);
    }
    run_channel_mix(block.ffn, block.ln2, state, B, s, scale);
    if (halves_after(layer)) ops::add_scaled(x, x, -0.5F, N * C);
  }
  return s.x;
}

void Rwkv4Inference::run_time_mix(const BlockWeights& block, State& state, int64_t B, Scratch& s,
                                  float scale) {
  const TimeMixWeights& w = *block.att;
  const int64_t A = config_.att_size(), N = s.x.size(0), T = N / B;
  norm_mix(block.ln1, state, w.name + ".xx", B, {w.time_mix_k, w.time_mix_v, w.time_mix_r}, s);
  const at::Tensor r = s.r.view({-1}).narrow(0, 0, N * A).view({N, A});
  product(*w.key, s.mixed[0], s.k);
  product(*w.value, s.mixed[1], s.v);
  product(*w.receptance, s.mixed[2], r);
  const ops::Wkv4State sums{state.get(w.name + ".aa"), state.get(w.name + ".bb"),
                            state.get(w.name + ".pp")};
  const auto [y, aa, bb, pp] =
      ops::wkv4(w.time_decay, w.time_first, s.k.view({B, T, A}), s.v.view({B, T, A}), sums);
  state.set(w.name + ".aa", aa);
  state.set(w.name + ".bb", bb);
  state.set(w.name + ".pp", pp);
  ops::gate(data(r), mutable_data(y), N * A);
  product(*w.output, y.view({N, A}), s.out);
  ops::add_scaled(mutable_data(s.x), data(s.out), scale, s.x.numel());
}

void Rwkv4Inference::run_channel_mix(const ChannelMixWeights& w, const NormWeights& norm,
                                     State& state, int64_t B, Scratch& s, float scale) {
  const int64_t C = config_.n_embd, N = s.x.size(0);
  norm_mix(norm, state, w.name + ".xx", B, {w.time_mix_k, w.time_mix_r}, s);
  const at::Tensor r = s.r.view({-1}).narrow(0, 0, N * C).view({N, C});
  product(*w.key, s.mixed[0], s.hidden);
  ops::relu_square(mutable_data(s.hidden), s.hidden.numel());
  product(*w.receptance, s.mixed[1], r);
  product(*w.value, s.hidden, s.out);
  ops::add_gated(mutable_data(s.x), data(r), data(s.out), scale, N * C);
}

at::Tensor Rwkv4Inference::head(const at::Tensor& ids_BT, const at::Tensor& x, State& state,
                                Positions positions) {
  const int64_t B = ids_BT.size(0), T = ids_BT.size(1), C = config_.n_embd;
  const bool last_only = positions == Positions::kLast;
  // Head-QK needs the keys of all positions.
  const bool only_last_row = last_only && head_q_.is_empty();
  const at::Tensor rows =
      only_last_row ? x.view({B, T, C}).select(1, T - 1).contiguous() : x.contiguous();
  const int64_t N = rows.size(0);
  const at::Tensor z = at::empty_like(rows);
  ops::layer_norm(data(rows), data(weights_.ln_out.weight), data(weights_.ln_out.bias),
                  mutable_data(z), N, C);
  at::Tensor logits = at::empty({N, config_.vocab_size}, at::kFloat);
  product(*weights_.head, z, logits);
  logits = logits.view({B, N / B, config_.vocab_size});
  if (head_q_.is_empty()) return logits;
  logits = add_head_qk(logits, z.view({B, T, C}), ids_BT, head_q_, head_k_, config_.head_qk_reduce,
                       &state);
  return last_only ? logits.slice(1, T - 1, T) : logits;
}

int64_t Rwkv4Inference::weight_bytes() const {
  int64_t bytes = weights_.head->size_bytes();
  const auto add = [&bytes](const ChannelMixWeights& w) {
    bytes += w.key->size_bytes() + w.receptance->size_bytes() + w.value->size_bytes();
  };
  for (const BlockWeights& block : weights_.blocks) {
    add(block.ffn);
    if (block.ffn_pre) add(*block.ffn_pre);
    if (!block.att) continue;
    for (const auto* matrix :
         {&block.att->key, &block.att->value, &block.att->receptance, &block.att->output}) {
      bytes += (*matrix)->size_bytes();
    }
  }
  return bytes;
}

void Rwkv4Inference::calibrate() {
  const bool any = std::any_of(slots_.begin(), slots_.end(),
                               [](const Slot& slot) { return slot.form == WeightForm::kI8Seed; });
  if (!any) return;
  const torch::NoGradGuard no_grad;
  auto generator = at::detail::createCPUGenerator(42);
  at::Tensor ids = at::zeros({1, 1}, at::kLong);
  State state;
  while (ids.size(1) < kCalibrationTokens) {
    const at::Tensor logits =
        forward(ids.slice(1, ids.size(1) - 1), &state, Positions::kLast).view({-1});
    const at::Tensor probabilities = logits.softmax(0);
    if (!at::isfinite(probabilities).all().item<bool>()) {
      user_error("{}: the logits are not finite; the weights are damaged or training diverged",
                 file_.name());
    }
    const at::Tensor next = at::multinomial(probabilities, 1, true, generator);
    ids = at::cat({ids, next.view({1, 1})}, 1);
  }
  calibrating_ = true;
  forward(ids, nullptr, Positions::kAll);
  calibrating_ = false;
}

}  // namespace

bool can_run_inference(const formats::TensorFile& file) {
  ModelConfig config;
  try {
    config = config_of(file);
  } catch (const UserError&) {
    return false;
  }
  if (config.arch != "rwkv4") return false;
  const Shapes known = rwkv4_shapes(config);
  return std::all_of(file.tensors().begin(), file.tensors().end(), [&](const auto& info) {
    return known.contains(info.name) || formats::is_mask_buffer(info.name);
  });
}

std::shared_ptr<InferenceModel> load_inference_model(formats::TensorFile file,
                                                     const InferenceOptions& options,
                                                     const LoadProgress& progress) {
  auto model = std::make_shared<Rwkv4Inference>(std::move(file), options, progress);
  model->eval();
  model->calibrate();
  return model;
}

}  // namespace rwkv::model
