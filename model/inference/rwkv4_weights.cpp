#include "model/inference/rwkv4_weights.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <torch/torch.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "data/base/error.h"
#include "model/formats/element_types.h"

namespace rwkv::model {
namespace {

using formats::TensorFile;
using formats::TensorInfo;

/// Sizes other than 1: [1,1,C] and [C] are the same vector.
std::vector<int64_t> squeezed(const std::vector<int64_t>& shape) {
  std::vector<int64_t> sizes;
  std::copy_if(shape.begin(), shape.end(), std::back_inserter(sizes),
               [](int64_t size) { return size != 1; });
  return sizes;
}

void check_shapes(const TensorFile& file, const ModelConfig& config) {
  for (const auto& [name, shape] : rwkv4_shapes(config)) {
    const TensorInfo* info = file.find(name);
    if (info == nullptr) user_error("{}: {} is missing", file.name(), name);
    const bool same =
        shape.size() == 1 ? squeezed(info->shape) == squeezed(shape) : info->shape == shape;
    if (!same) {
      user_error("{}: {} is [{}], expected [{}]", file.name(), name, fmt::join(info->shape, ","),
                 fmt::join(shape, ","));
    }
  }
}

class Loader {
 public:
  Loader(const TensorFile& file, const std::vector<Slot>& slots, const LoadProgress& progress)
      : file_(file), slots_(slots), progress_(progress) {
    for (const TensorInfo& info : file.tensors()) all_bytes_ += info.size_bytes();
  }

  at::Tensor vector(const std::string& name) {
    const TensorInfo& info = found(name);
    at::Tensor values = at::empty({info.numel()}, at::kFloat);
    read_into(file_, info, values);
    vectors_.emplace_back(name, values);
    return values;
  }

  NormWeights norm(const std::string& name) {
    return {vector(name + ".weight"), vector(name + ".bias")};
  }

  std::unique_ptr<WeightMatrix> matrix(const std::string& name, size_t slot) {
    return load_matrix(file_, found(name), slots_[slot]);
  }

  at::Tensor small_matrix(const std::string& name) {
    const TensorInfo& info = found(name);
    at::Tensor values = at::empty(info.shape, at::kFloat);
    read_into(file_, info, values);
    return values;
  }

  TimeMixWeights time_mix(std::string name, size_t slot) {
    TimeMixWeights w;
    w.time_decay = vector(name + ".time_decay");
    w.decay = -w.time_decay.exp();
    w.time_first = vector(name + ".time_first");
    w.time_mix_k = vector(name + ".time_mix_k");
    w.time_mix_v = vector(name + ".time_mix_v");
    w.time_mix_r = vector(name + ".time_mix_r");
    w.key = matrix(name + ".key.weight", slot);
    w.value = matrix(name + ".value.weight", slot);
    w.receptance = matrix(name + ".receptance.weight", slot);
    w.output = matrix(name + ".output.weight", slot);
    w.name = std::move(name);
    return w;
  }

  ChannelMixWeights channel_mix(std::string name, size_t slot) {
    ChannelMixWeights w;
    w.time_mix_k = vector(name + ".time_mix_k");
    w.time_mix_r = vector(name + ".time_mix_r");
    w.key = matrix(name + ".key.weight", slot);
    w.receptance = matrix(name + ".receptance.weight", slot);
    w.value = matrix(name + ".value.weight", slot);
    w.name = std::move(name);
    return w;
  }

  /// The tensor's place in the file; counts it as loaded.
  const TensorInfo& found(const std::string& name) {
    const TensorInfo& info = *file_.find(name);
    if (progress_) progress_(done_bytes_, all_bytes_);
    done_bytes_ += info.size_bytes();
    return info;
  }

  /// All vectors that were read.
  NamedTensors finish() {
    if (progress_) progress_(all_bytes_, all_bytes_);
    return std::move(vectors_);
  }

 private:
  const TensorFile& file_;
  const std::vector<Slot>& slots_;
  const LoadProgress& progress_;
  NamedTensors vectors_;
  int64_t done_bytes_ = 0, all_bytes_ = 0;
};

}  // namespace

EmbeddingRows::EmbeddingRows(const TensorFile& file, const TensorInfo& info, bool in_file)
    : dtype_(info.dtype),
      row_bytes_(static_cast<size_t>(info.shape.at(1) * formats::item_size(info.dtype))) {
  if (!formats::is_number(info.dtype)) {
    user_error("{}: {} is stored as {}, which holds no weights; convert it to fp32, fp16 or bf16",
               file.name(), printable(info.name), formats::dtype_name(info.dtype));
  }
  if (in_file && info.is_contiguous()) {
    file.verify(info);
    bytes_ = info.contiguous_bytes();
    return;
  }
  memory_ = weight_memory({info.size_bytes()}, at::kByte);
  const std::span to(static_cast<std::byte*>(memory_.mutable_data_ptr()), memory_.nbytes());
  file.read(info, info.dtype, to);
  bytes_ = to;
}

void EmbeddingRows::copy(int64_t id, float* to) const {
  const auto row = bytes_.subspan(static_cast<size_t>(id) * row_bytes_, row_bytes_);
  const size_t count = row_bytes_ / static_cast<size_t>(formats::item_size(dtype_));
  formats::convert_elements(row, dtype_, std::as_writable_bytes(std::span(to, count)),
                            formats::DType::f32);
}

Shapes rwkv4_shapes(const ModelConfig& config) {
  const int64_t C = config.n_embd, A = config.att_size(), F = config.ffn_size(),
                V = config.vocab_size;
  Shapes shapes{{"emb.weight", {V, C}},     {"head.weight", {V, C}}, {"blocks.0.ln0.weight", {C}},
                {"blocks.0.ln0.bias", {C}}, {"ln_out.weight", {C}},  {"ln_out.bias", {C}}};
  const auto channel_mix = [&](const std::string& name) {
    for (const char* m : {"k", "r"}) shapes[name + ".time_mix_" + m] = {C};
    shapes[name + ".key.weight"] = {F, C};
    shapes[name + ".receptance.weight"] = {C, C};
    shapes[name + ".value.weight"] = {C, F};
  };
  for (int64_t layer = 0; layer < config.n_layer; ++layer) {
    const std::string block = fmt::format("blocks.{}.", layer);
    for (const char* ln : {"ln1.weight", "ln1.bias", "ln2.weight", "ln2.bias"}) {
      shapes[block + ln] = {C};
    }
    channel_mix(block + "ffn");
    if (layer == 0 && config.pre_ffn) {
      channel_mix(block + "ffnPre");
      continue;
    }
    for (const char* vector : {"time_decay", "time_first"}) shapes[block + "att." + vector] = {A};
    for (const char* m : {"k", "v", "r"}) shapes[block + "att.time_mix_" + m] = {C};
    for (const char* in : {"key", "value", "receptance"}) {
      shapes[block + "att." + in + ".weight"] = {A, C};
    }
    shapes[block + "att.output.weight"] = {C, A};
  }
  if (config.head_qk > 0) {
    shapes["head_q.weight"] = shapes["head_k.weight"] = {config.head_qk, C};
  }
  return shapes;
}

Rwkv4Weights load_rwkv4_weights(const TensorFile& file, const ModelConfig& config,
                                const std::vector<Slot>& slots, const LoadProgress& progress) {
  check_shapes(file, config);
  const bool some_streamed =
      std::any_of(slots.begin(), slots.end(), [](const Slot& slot) { return slot.streamed; });
  Loader loader(file, slots, progress);
  Rwkv4Weights weights;
  weights.emb.emplace(file, loader.found("emb.weight"), some_streamed);
  weights.ln0 = loader.norm("blocks.0.ln0");
  for (int64_t layer = 0; layer < config.n_layer; ++layer) {
    const std::string name = fmt::format("blocks.{}.", layer);
    const auto slot = static_cast<size_t>(layer);
    BlockWeights block;
    block.ln1 = loader.norm(name + "ln1");
    block.ln2 = loader.norm(name + "ln2");
    if (layer == 0 && config.pre_ffn) {
      block.ffn_pre = loader.channel_mix(name + "ffnPre", slot);
    } else {
      block.att = loader.time_mix(name + "att", slot);
    }
    block.ffn = loader.channel_mix(name + "ffn", slot);
    weights.blocks.push_back(std::move(block));
  }
  weights.ln_out = loader.norm("ln_out");
  weights.head = loader.matrix("head.weight", slots.size() - 1);
  if (config.head_qk > 0) {
    weights.head_q = loader.small_matrix("head_q.weight");
    weights.head_k = loader.small_matrix("head_k.weight");
  }
  weights.vectors = loader.finish();
  file.check_unchanged();
  return weights;
}

}  // namespace rwkv::model
