#include "model/sentence_embedding.h"

#include <fmt/format.h>
#include <torch/torch.h>

#include <string>

#include "data/base/error.h"
#include "model/weights.h"

namespace rwkv::model {
namespace {

/// The row as float32 [width], zeros where nothing has been seen.
at::Tensor row_of(const State& state, const std::string& name, int64_t width) {
  const at::Tensor row = state.get(name);
  if (!row.defined()) return at::zeros({width});
  TORCH_CHECK(row.dim() == 2 && row.size(0) == 1 && row.size(1) == width,
              "sentence_embedding: ", name, " is ", row.sizes(), ", expected [1,", width, "]");
  return row[0].to(at::kCPU, at::kFloat);
}

at::Tensor wkv_mean(const State& state, const std::string& block, int64_t width) {
  const at::Tensor aa = row_of(state, block + "att.aa", width);
  const at::Tensor bb = row_of(state, block + "att.bb", width);
  return at::where(bb > 0, aa / bb, 0.0F);
}

at::Tensor embedding_row(const State& state, const ModelConfig& model, int64_t layer,
                         EmbeddingRow row) {
  const std::string block = fmt::format("blocks.{}.", layer);
  const bool pre_ffn = model.pre_ffn && layer == 0;
  switch (row) {
    case EmbeddingRow::kAttX:
      return row_of(state, block + (pre_ffn ? "ffnPre.xx" : "att.xx"), model.n_embd);
    case EmbeddingRow::kWkv:
      return wkv_mean(state, block, model.att_size());
    case EmbeddingRow::kFfnX:
      return row_of(state, block + "ffn.xx", model.n_embd);
  }
  throw std::logic_error("sentence_embedding: unknown row");
}

std::vector<int64_t> layers_of(const ModelConfig& model, const EmbeddingConfig& config) {
  std::vector<int64_t> layers = config.layers;
  if (layers.empty()) {
    for (int64_t layer = 0; layer < model.n_layer; ++layer) layers.push_back(layer);
  }
  for (const int64_t layer : layers) {
    if (layer >= 0 && layer < model.n_layer) continue;
    user_error("layers: {} is out of range; this model has layers 0 to {}", layer,
               model.n_layer - 1);
  }
  return layers;
}

}  // namespace

at::Tensor sentence_embedding(const State& state, const ModelConfig& model,
                              const EmbeddingConfig& config) {
  if (model.arch != "rwkv4") {
    user_error("embeddings are made of the state of RWKV-4; this model is {}", model.arch);
  }
  TORCH_CHECK(!config.rows.empty(), "sentence_embedding: no rows");
  std::vector<at::Tensor> parts;
  for (const int64_t layer : layers_of(model, config)) {
    for (const EmbeddingRow row : config.rows) {
      parts.push_back(embedding_row(state, model, layer, row));
    }
  }
  return at::cat(parts);
}

ChannelStatistics channel_statistics(const at::Tensor& vectors) {
  TORCH_CHECK(vectors.dim() == 2 && vectors.size(0) > 0, "channel_statistics: vectors are ",
              vectors.sizes(), ", expected [N,D] with N >= 1");
  const at::Tensor wide = vectors.to(at::kDouble);
  const at::Tensor mean = wide.mean(0);
  const at::Tensor std = (wide - mean).square().mean(0).sqrt();
  return {mean.to(at::kFloat), std.to(at::kFloat)};
}

at::Tensor normalised(const at::Tensor& vectors, const ChannelStatistics& statistics) {
  TORCH_CHECK(vectors.dim() == 2, "normalised: vectors are ", vectors.sizes(), ", expected [N,D]");
  if (vectors.size(1) != statistics.mean.numel()) {
    user_error(
        "the statistics are of {} channels, these vectors have {}; use the same model, rows and "
        "layers",
        statistics.mean.numel(), vectors.size(1));
  }
  return at::where(statistics.std > 0, (vectors - statistics.mean) / statistics.std, 0.0F);
}

void save_statistics(const ChannelStatistics& statistics, const std::filesystem::path& file) {
  save_safetensors({{"mean", statistics.mean.contiguous()}, {"std", statistics.std.contiguous()}},
                   file);
}

ChannelStatistics load_statistics(const std::filesystem::path& file) {
  const Tensors tensors = read_tensors(file);
  const auto mean = tensors.find("mean");
  const auto std = tensors.find("std");
  const bool fits = mean != tensors.end() && std != tensors.end() && mean->second.dim() == 1 &&
                    mean->second.sizes() == std->second.sizes() &&
                    mean->second.scalar_type() == at::kFloat &&
                    std->second.scalar_type() == at::kFloat;
  if (!fits) {
    user_error("{} holds no statistics of embeddings; write them with 'rwkv embed --write-norm'",
               printable(file.string()));
  }
  return {mean->second, std->second};
}

}  // namespace rwkv::model
