#include "model/head_qk.h"

#include <torch/torch.h>

namespace rwkv::model {
namespace {

at::Tensor append(State* state, const std::string& key, const at::Tensor& rows) {
  if (state == nullptr) return rows;
  const at::Tensor before = state->get(key);
  const at::Tensor all = before.defined() ? at::cat({before, rows}, 1) : rows;
  state->set(key, all);
  return all;
}

}  // namespace

at::Tensor add_head_qk(const at::Tensor& logits_BTV, const at::Tensor& x_BTC,
                       const at::Tensor& ids_BT, torch::nn::Linear& head_q,
                       torch::nn::Linear& head_k, State* state) {
  const at::Tensor q_BTD = head_q(x_BTC);
  const at::Tensor k_BSD = append(state, "head_qk.k", head_k(x_BTC));
  const at::Tensor ids_BS = append(state, "head_qk.ids", ids_BT);
  const auto past = k_BSD.size(1) - q_BTD.size(1);
  const at::Tensor c_BTS =
      (at::matmul(q_BTD, k_BSD.transpose(1, 2)) / static_cast<double>(q_BTD.size(2))).tril(past);
  // A scatter along the vocabulary: the one-hot matrix [B,S,V] of the original never exists.
  return logits_BTV.scatter_add(2, ids_BS.unsqueeze(1).expand_as(c_BTS),
                                c_BTS.to(logits_BTV.scalar_type()));
}

}  // namespace rwkv::model
