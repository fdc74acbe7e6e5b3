#include "model/formats/layout.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <string_view>

#include "model/formats/tensor_names.h"

namespace rwkv::formats {
namespace {

/// The first tensor whose name contains `part`.
const std::vector<int64_t>* find_part(const ShapesByName& shapes, std::string_view part) {
  for (const auto& [name, shape] : shapes) {
    if (name.find(part) != std::string::npos && !is_mask_buffer(name)) return &shape;
  }
  return nullptr;
}

/// The first size of that tensor, or `otherwise`.
int64_t rows_of(const ShapesByName& shapes, std::string_view part, int64_t otherwise) {
  const std::vector<int64_t>* shape = find_part(shapes, part);
  return shape == nullptr || shape->empty() ? otherwise : shape->front();
}

/// In this order, since later versions keep the names of earlier ones.
std::string version_of(const ShapesByName& shapes) {
  if (find_part(shapes, ".att.r_k") != nullptr) return "7";
  if (find_part(shapes, "time_maa") != nullptr) return "6";
  if (find_part(shapes, ".att.ln_x.weight") == nullptr) return "4";
  if (find_part(shapes, ".att.gate.weight") == nullptr) return "5.0";
  const std::vector<int64_t>* decay = find_part(shapes, ".att.time_decay");
  return decay != nullptr && decay->size() >= 2 ? "5.2" : "5.1";
}

}  // namespace

ShapesByName shapes_of(const std::vector<TensorInfo>& tensors) {
  ShapesByName shapes;
  for (const TensorInfo& tensor : tensors) shapes[tensor.name] = tensor.shape;
  return shapes;
}

std::optional<Layout> recognise_rwkv(const ShapesByName& shapes) {
  const auto emb = shapes.find("emb.weight");
  if (emb == shapes.end() || emb->second.size() != 2) return std::nullopt;
  Layout layout;
  layout.vocab_size = emb->second[0];
  layout.n_embd = emb->second[1];
  for (const auto& [name, shape] : shapes) {
    layout.n_layer = std::max(layout.n_layer, block_of(name) + 1);
  }
  const bool mixes = find_part(shapes, ".ffn.key.weight") != nullptr;
  if (layout.n_layer == 0 || !mixes) return std::nullopt;
  layout.version = version_of(shapes);
  layout.dim_att = rows_of(shapes, ".att.key.weight", layout.n_embd);
  layout.dim_ffn = rows_of(shapes, ".ffn.key.weight", 0);
  layout.pre_ffn = shapes.contains("blocks.0.ffnPre.key.weight");
  layout.head_qk = rows_of(shapes, "head_q.weight", 0);
  layout.tiny_att = rows_of(shapes, ".tiny_q.weight", 0);
  layout.att_qkv = find_part(shapes, ".att.qq.weight") != nullptr;
  layout.pos_emb = find_part(shapes, "pos_emb_") != nullptr;
  return layout;
}

std::vector<std::string> options_of(const Layout& layout) {
  std::vector<std::string> options;
  if (layout.pre_ffn) options.emplace_back("pre_ffn");
  if (layout.head_qk > 0) options.push_back(fmt::format("Head-QK {}", layout.head_qk));
  if (layout.tiny_att > 0) {
    options.push_back(fmt::format("the tiny attention of RWKV-4a ({})", layout.tiny_att));
  }
  if (layout.att_qkv) options.emplace_back("the attention of RWKV-4b");
  if (layout.pos_emb) options.emplace_back("position embeddings");
  return options;
}

std::string describe(const Layout& layout) {
  std::string text = fmt::format(
      "RWKV-{}, n_layer {}, n_embd {}, dim_att {}, dim_ffn {}, vocab_size {}", layout.version,
      layout.n_layer, layout.n_embd, layout.dim_att, layout.dim_ffn, layout.vocab_size);
  const std::vector<std::string> options = options_of(layout);
  if (!options.empty()) text += fmt::format(", with {}", fmt::join(options, " and "));
  return text;
}

}  // namespace rwkv::formats
