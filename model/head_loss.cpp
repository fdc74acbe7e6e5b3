#include "model/head_loss.h"

#include <torch/torch.h>

#include <algorithm>
#include <vector>

#include "cuda/cross_entropy.h"
#include "model/language_model.h"

namespace rwkv::model {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// Sum over the chunks of the gradient of a weight; nothing for a frozen one.
class WeightGradient {
 public:
  explicit WeightGradient(const at::Tensor& weight) : weight_(weight) {}

  /// Adds g^T x.
  void add(const at::Tensor& g, const at::Tensor& x) {
    if (!weight_.requires_grad()) return;
    if (!sum_.defined()) {
      sum_ = at::mm(g.t(), x);
    } else if (at::isReducedFloatingType(weight_.scalar_type())) {
      sum_ = sum_.to(at::kFloat);  // once: later it is float32 already
      sum_.add_(at::mm(g.t(), x));
    } else {
      sum_.addmm_(g.t(), x);
    }
  }
  [[nodiscard]] at::Tensor result() const {
    return sum_.defined() ? sum_.to(weight_.scalar_type()) : sum_;
  }

 private:
  const at::Tensor& weight_;
  at::Tensor sum_;
};

/// One run over the rows of the head, forward and (with gradients) backward.
class HeadPass {
 public:
  HeadPass(const HeadInput& head, const at::Tensor& targets_BT, const HeadLossOptions& options,
           bool gradient)
      : head_(head), options_(options), gradient_(gradient), g_weight_(head.weight_VC) {
    const at::Tensor& x = head.x_BTC;
    B_ = x.size(0);
    T_ = x.size(1);
    x_ = x.reshape({B_ * T_, x.size(2)});
    targets_ = targets_BT.reshape({-1});
    weights_ = options.weights_BT.reshape({-1});
    // A chunk of Head-QK looks back over one sequence.
    rows_ = head_chunk_rows(head.head_qk ? T_ : B_ * T_, head.weight_VC.size(0));
    logits_ = at::empty({rows_, head.weight_VC.size(0)}, x.options());
    losses_ = at::empty(weights_.sizes(), weights_.options());
    if (!gradient) return;
    gx_ = at::empty(x_.sizes(), x_.options());
    if (head.head_qk) {
      gq_ = at::empty(head.head_qk->q_BTD.sizes(), x.options());
      gk_ = at::zeros(head.head_qk->k_BSD.sizes(), x.options().dtype(weights_.scalar_type()));
    }
  }

  void run() {
    const int64_t stretch = head_.head_qk ? T_ : B_ * T_;
    for (int64_t start = 0; start < B_ * T_; start += stretch) {
      for (int64_t row = start; row < start + stretch; row += rows_) {
        chunk(row, std::min(rows_, start + stretch - row));
      }
    }
  }

  [[nodiscard]] at::Tensor losses() const { return losses_; }
  [[nodiscard]] at::Tensor loss() const { return (losses_ * weights_).sum(); }
  /// Gradients of x, weight and, with Head-QK, q and k.
  [[nodiscard]] variable_list gradients() const {
    variable_list all{gx_.view_as(head_.x_BTC), g_weight_.result()};
    if (head_.head_qk) all.insert(all.end(), {gq_, gk_.to(gq_.scalar_type())});
    return all;
  }

 private:
  void chunk(int64_t row, int64_t rows) {
    const auto part = [&](const at::Tensor& all) { return all.narrow(0, row, rows); };
    at::Tensor logits = logits_.narrow(0, 0, rows);
    const at::Tensor x = part(x_);
    at::mm_out(logits, x, head_.weight_VC.t());
    HeadQkScores scores;
    if (head_.head_qk) scores = add_head_qk_scores(logits, row, rows);
    const double e = options_.expected_gradient;
    const double l2wrap = options_.l2wrap * (options_.l2wrap_ignores_gradient ? 1 : e);
    part(losses_).copy_(
        ops::cross_entropy_rows_(logits, part(targets_), part(weights_) * e, l2wrap, gradient_));
    if (!gradient_) return;
    at::Tensor gx = part(gx_);
    at::mm_out(gx, logits, head_.weight_VC);
    g_weight_.add(logits, x);
    if (head_.head_qk) head_qk_gradients(logits, scores, row, rows);
  }

  [[nodiscard]] HeadQkInput head_qk_of(int64_t row, int64_t rows) const {
    const int64_t b = row / T_, t = row % T_;
    const HeadQkInput& all = *head_.head_qk;
    return {all.q_BTD.narrow(0, b, 1).narrow(1, t, rows),
            all.k_BSD.narrow(0, b, 1).narrow(1, 0, t + rows),
            all.ids_BS.narrow(0, b, 1).narrow(1, 0, t + rows), all.reduce};
  }

  HeadQkScores add_head_qk_scores(at::Tensor& logits, int64_t row, int64_t rows) const {
    const HeadQkScores scores = head_qk_scores(head_qk_of(row, rows), logits.size(1));
    logits.scatter_add_(1, scores.ids_BTS[0], scores.c_BTS[0].to(logits.scalar_type()));
    return scores;
  }

  void head_qk_gradients(const at::Tensor& g_logits, const HeadQkScores& scores, int64_t row,
                         int64_t rows) {
    const HeadQkInput part = head_qk_of(row, rows);
    const int64_t b = row / T_, t = row % T_;
    at::Tensor gc = g_logits.gather(1, scores.ids_BTS[0]).tril(t);
    if (scores.kept_BTS.defined()) gc = gc * scores.kept_BTS[0];
    gc = gc / static_cast<double>(part.q_BTD.size(2));
    gq_[b].narrow(0, t, rows).copy_(at::mm(gc, part.k_BSD[0]));
    gk_[b].narrow(0, 0, t + rows).add_(at::mm(gc.t(), part.q_BTD[0]));
  }

  const HeadInput& head_;
  const HeadLossOptions& options_;
  bool gradient_;
  int64_t B_ = 0, T_ = 0, rows_ = 0;
  at::Tensor x_, targets_, weights_, logits_, losses_, gx_, gq_, gk_;
  WeightGradient g_weight_;
};

class HeadLoss : public torch::autograd::Function<HeadLoss> {
 public:
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& /*x*/,
                            const at::Tensor& /*weight*/, const std::optional<at::Tensor>& /*q*/,
                            const std::optional<at::Tensor>& /*k*/, const HeadInput& head,
                            const at::Tensor* targets_BT, const HeadLossOptions& options,
                            bool gradient) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    HeadPass pass(head, *targets_BT, options, gradient);
    pass.run();
    if (gradient) ctx->save_for_backward(pass.gradients());
    ctx->saved_data["expected"] = options.expected_gradient;
    ctx->saved_data["fixed"] = options.l2wrap != 0 && options.l2wrap_ignores_gradient;
    return pass.loss();
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& incoming) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    variable_list gradients = ctx->get_saved_variables();
    const at::Tensor& g = incoming[0];
    const double expected = ctx->saved_data["expected"].toDouble();
    // On a GPU the comparison would wait for it; there the product is always made.
    const bool as_expected =
        g.device().is_cpu() &&
        g.item<double>() == at::scalar_tensor(expected, g.options()).item<double>();
    if (!as_expected) {
      TORCH_CHECK(!g.device().is_cpu() || !ctx->saved_data["fixed"].toBool(),
                  "head_loss: the backward pass brings the gradient ", g.item<double>(), ", but ",
                  expected, " was expected, and L2Wrap is not to be multiplied by it");
      for (at::Tensor& gradient : gradients) {
        if (gradient.defined()) gradient = (gradient * (g / expected)).to(gradient.scalar_type());
      }
    }
    gradients.resize(8);
    return gradients;
  }
};

void check_head(const HeadInput& head, const at::Tensor& targets_BT) {
  const at::Tensor& x = head.x_BTC;
  TORCH_CHECK(x.dim() == 3 && x.numel() > 0, "head_loss: x must be [B,T,C], got ", x.sizes());
  TORCH_CHECK(head.weight_VC.dim() == 2 && head.weight_VC.size(1) == x.size(2),
              "head_loss: the head is ", head.weight_VC.sizes(), ", x is ", x.sizes());
  TORCH_CHECK(targets_BT.sizes() == x.sizes().slice(0, 2) && targets_BT.scalar_type() == at::kLong,
              "head_loss: targets must be int64 ", x.sizes().slice(0, 2), ", got ",
              targets_BT.scalar_type(), " ", targets_BT.sizes());
}

at::ScalarType math_type(const at::Tensor& x) {
  return x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

}  // namespace

HeadInput forward_to_head(LanguageModel& model, const at::Tensor& ids) {
  auto* const head_model = dynamic_cast<HeadModel*>(&model);
  TORCH_CHECK(head_model != nullptr, "forward_to_head: ", model.config().arch,
              " cannot say where its head begins");
  return head_model->forward_to_head(ids);
}

int64_t head_chunk_rows(int64_t N, int64_t V) {
  constexpr int64_t kLogits = int64_t{1} << 22, kLeastRows = 512;
  const int64_t most = std::max(kLeastRows, kLogits / V);
  const int64_t chunks = (N + most - 1) / most;
  return (N + chunks - 1) / chunks;
}

at::Tensor head_loss(const HeadInput& head, const at::Tensor& targets_BT,
                     const HeadLossOptions& options) {
  check_head(head, targets_BT);
  TORCH_CHECK(options.weights_BT.sizes() == targets_BT.sizes() &&
                  options.weights_BT.scalar_type() == math_type(head.x_BTC),
              "head_loss: weights must be ", math_type(head.x_BTC), " ", targets_BT.sizes(),
              ", got ", options.weights_BT.scalar_type(), " ", options.weights_BT.sizes());
  std::optional<at::Tensor> q, k;
  if (head.head_qk) {
    q = head.head_qk->q_BTD;
    k = head.head_qk->k_BSD;
  }
  const auto needs = [](const std::optional<at::Tensor>& t) { return t && t->requires_grad(); };
  const bool gradient = at::GradMode::is_enabled() &&
                        (needs(head.x_BTC) || needs(head.weight_VC) || needs(q) || needs(k));
  return HeadLoss::apply(head.x_BTC, head.weight_VC, q, k, head, &targets_BT, options, gradient);
}

at::Tensor head_cross_entropy(const HeadInput& head, const at::Tensor& targets_BT) {
  check_head(head, targets_BT);
  const torch::NoGradGuard no_grad;
  const HeadLossOptions options{
      .weights_BT =
          at::ones(targets_BT.sizes(), head.x_BTC.options().dtype(math_type(head.x_BTC)))};
  HeadPass pass(head, targets_BT, options, /*gradient=*/false);
  pass.run();
  return pass.losses().view_as(targets_BT);
}

}  // namespace rwkv::model
