#include "model/head_qk.h"

#include <torch/torch.h>

#include <limits>

namespace rwkv::model {
namespace {

at::Tensor append(State* state, const std::string& key, const at::Tensor& rows) {
  if (state == nullptr) return rows;
  const at::Tensor before = state->get(key);
  at::Tensor all = before.defined() ? at::cat({before, rows}, 1) : rows;
  state->set(key, all);
  return all;
}

/// Marks in each row t the places s whose score is the largest of their id up to t; of equal ones
/// the first. past: places before the first row. Needs two tensors of the logits' size for a while.
at::Tensor keep_largest(const at::Tensor& c_BTS, const at::Tensor& ids_BTS, int64_t past,
                        int64_t vocab_size) {
  const torch::NoGradGuard no_grad;
  const auto [B, T, S] = std::tuple(c_BTS.size(0), c_BTS.size(1), c_BTS.size(2));
  const at::Tensor later =
      at::ones({T, S}, c_BTS.options().dtype(at::kBool).requires_grad(false)).triu(past + 1);
  const at::Tensor scores = c_BTS.masked_fill(later, -std::numeric_limits<double>::infinity());
  const at::Tensor best =
      at::full({B, T, vocab_size}, -std::numeric_limits<double>::infinity(), scores.options())
          .scatter_reduce(2, ids_BTS, scores, "amax");
  const at::Tensor place = at::arange(S, ids_BTS.options()).expand_as(ids_BTS);
  const at::Tensor candidate = at::where(scores == best.gather(2, ids_BTS), place, S);
  const at::Tensor first = at::full({B, T, vocab_size}, S, ids_BTS.options())
                               .scatter_reduce(2, ids_BTS, candidate, "amin");
  return (place == first.gather(2, ids_BTS)).logical_and(later.logical_not());
}

}  // namespace

HeadQkScores head_qk_scores(const HeadQkInput& in, int64_t vocab_size) {
  const auto past = in.k_BSD.size(1) - in.q_BTD.size(1);
  HeadQkScores scores;
  scores.c_BTS =
      (at::matmul(in.q_BTD, in.k_BSD.transpose(1, 2)) / static_cast<double>(in.q_BTD.size(2)))
          .tril(past);
  scores.ids_BTS = in.ids_BS.unsqueeze(1).expand_as(scores.c_BTS);
  if (in.reduce == HeadQkReduce::kMax) {
    scores.kept_BTS = keep_largest(scores.c_BTS, scores.ids_BTS, past, vocab_size);
    scores.c_BTS = scores.c_BTS * scores.kept_BTS;
  }
  return scores;
}

at::Tensor add_head_qk(const at::Tensor& logits_BTV, const at::Tensor& x_BTC,
                       const at::Tensor& ids_BT, torch::nn::Linear& head_q,
                       torch::nn::Linear& head_k, HeadQkReduce reduce, State* state) {
  const HeadQkInput in{head_q(x_BTC), append(state, "head_qk.k", head_k(x_BTC)),
                       append(state, "head_qk.ids", ids_BT), reduce};
  const HeadQkScores scores = head_qk_scores(in, logits_BTV.size(2));
  // A scatter along the vocabulary: the one-hot matrix [B,S,V] of the original never exists.
  return logits_BTV.scatter_add(2, scores.ids_BTS, scores.c_BTS.to(logits_BTV.scalar_type()));
}

}  // namespace rwkv::model
