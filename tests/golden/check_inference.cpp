#include <torch/torch.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <string>
#include <vector>

#include "cuda/inference.h"
#include "model/inference/quantise.h"
#include "model/inference/rwkv4_inference.h"
#include "model/weights.h"
#include "tests/golden/golden.h"
#include "tests/golden/golden_tensors.h"

// Files of the programs that only run models: the `rwkv` package and RWKV-v4neo's model_run.

namespace rwkv::golden {
namespace {

namespace fs = std::filesystem;
using model::LanguageModel;
using model::Positions;
using model::State;

/// The tensors named w.* as `options` loads them from a file.
std::shared_ptr<LanguageModel> load_inference(const Tensors& golden,
                                              const model::InferenceOptions& options) {
  model::NamedTensors weights;
  for (const auto& [name, tensor] : golden) {
    if (name.starts_with("w.")) weights.emplace_back(name.substr(2), tensor);
  }
  const fs::path file =
      fs::temp_directory_path() / ("rwkv_golden_" + std::to_string(::getpid()) + ".safetensors");
  model::save_safetensors(weights, file);
  auto loaded = model::load_inference_model(formats::open_tensor_file(file), options);
  fs::remove(file);
  return loaded;
}

/// Logits [T,V] of ids [T], fed token by token.
at::Tensor one_by_one(LanguageModel& net, const at::Tensor& ids, State& state) {
  std::vector<at::Tensor> rows;
  for (int64_t t = 0; t < ids.size(0); ++t) {
    const at::Tensor id = ids.slice(0, t, t + 1).unsqueeze(0);
    rows.push_back(net.forward(id, &state, Positions::kAll).view({-1}));
  }
  return at::stack(rows);
}

/// Names of a layer's five rows in the order in which a program stores them.
using RowOrder = std::array<const char*, 5>;
constexpr RowOrder kPackageOrder{"att.xx", "att.aa", "att.bb", "att.pp", "ffn.xx"};
constexpr RowOrder kV4neoOrder{"ffn.xx", "att.xx", "att.aa", "att.bb", "att.pp"};

/// `rows`: one for each layer and name. aa, bb, pp have a free common scale: compare aa/bb and pp +
/// ln bb.
double state_difference(const State& state, const std::vector<at::Tensor>& rows,
                        const RowOrder& order) {
  double worst = 0;
  for (size_t layer = 0; layer * 5 < rows.size(); ++layer) {
    const auto ours = [&](const std::string& name) {
      return state.get("blocks." + std::to_string(layer) + "." + name).squeeze(0);
    };
    const auto theirs = [&](const std::string& name) {
      const auto place = std::find(order.begin(), order.end(), name) - order.begin();
      return rows[layer * 5 + static_cast<size_t>(place)];
    };
    const auto mean = [](const auto& of) { return of("att.aa") / of("att.bb"); };
    const auto weight = [](const auto& of) { return of("att.pp") + of("att.bb").log(); };
    worst = std::max({worst, max_difference(ours("att.xx"), theirs("att.xx")),
                      max_difference(ours("ffn.xx"), theirs("ffn.xx")),
                      max_difference(mean(ours), mean(theirs)),
                      max_difference(weight(ours), weight(theirs))});
  }
  return worst;
}

std::vector<at::Tensor> numbered(const Tensors& golden, const std::string& prefix) {
  std::vector<at::Tensor> rows;
  while (golden.contains(prefix + std::to_string(rows.size()))) {
    rows.push_back(golden.at(prefix + std::to_string(rows.size())));
  }
  return rows;
}

void check_float(const Tensors& weights, const Tensors& golden, Report& report) {
  const at::Tensor ids = weights.at("idx")[0];
  const auto net = load_inference(weights, {"cpu fp32", {}, {}});
  State state;
  const at::Tensor all = net->forward(ids.unsqueeze(0), state).squeeze(0);
  report.compare("one call: logits", max_difference(all, golden.at("seq_logits")), 2e-5);
  report.compare("one call: state",
                 state_difference(state, numbered(golden, "seq_state."), kPackageOrder), 2e-5);
  State stepped;
  const at::Tensor steps = one_by_one(*net, ids, stepped);
  report.compare("token by token: logits", max_difference(steps, golden.at("one_logits")), 2e-5);
  report.compare("token by token: state",
                 state_difference(stepped, numbered(golden, "one_state."), kPackageOrder), 2e-5);
  State chunked;
  at::Tensor last;
  int64_t first = 0;
  const at::Tensor chunks = golden.at("chunks").to(at::kLong);
  for (int64_t n = 0; n < chunks.numel(); ++n) {
    const auto size = chunks[n].item<int64_t>();
    last = net->forward(ids.slice(0, first, first + size).unsqueeze(0), &chunked, Positions::kLast);
    first += size;
  }
  report.compare("chunks: last logits",
                 max_difference(last.view({-1}), golden.at("chunk_last_logits")), 2e-5);
  report.compare("chunks: state",
                 state_difference(chunked, numbered(golden, "chunk_state."), kPackageOrder), 2e-5);
}

/// The package's bytes and vectors of every matrix, which it stores transposed.
void check_bytes(const Tensors& weights, const Tensors& golden, Report& report) {
  int64_t matrices = 0, different = 0;
  double worst = 0;
  for (const auto& [name, weight] : weights) {
    const std::string key = name.starts_with("w.") ? "i8." + name.substr(2) : "";
    if (!golden.contains(key)) continue;
    const model::ByteWeights ours = model::quantise_i8(weight);
    ++matrices;
    different += (ours.q.t() != golden.at(key)).sum().item<int64_t>();
    const auto vector = [&](const at::Tensor& tensor, const char* suffix) {
      worst = std::max(worst, relative_difference(tensor, golden.at(key + suffix).view({-1})));
    };
    vector(ours.column_shift, "_my");
    vector(ours.column_scale, "_ry");
    vector(ours.row_shift, "_mx");
    vector(ours.row_scale, "_rx");
    if (!golden.contains("i8.deq." + name.substr(2))) continue;
    const at::Tensor wide = model::dequantise_i8(ours, 0, weight.size(0));
    report.compare("i8 dequantised",
                   max_difference(wide.t(), golden.at("i8.deq." + name.substr(2))), 1e-6);
    report.compare("i8 dequantised vs float32", max_difference(wide, weight), 3e-3);
  }
  report.equal("i8 has matrices", matrices > 0);
  report.compare("i8 bytes that differ", static_cast<double>(different), 0);
  report.compare("i8 vectors (relative)", worst, 1e-6);
}

}  // namespace

void check_chatrwkv(const fs::path& file, Report& report) {
  const at::NoGradGuard no_grad;
  const Tensors golden = load_pth(file);
  const Tensors weights = load_pth(file.parent_path() / "rwkv4_plain.pth");
  const at::Tensor& emb = weights.at("w.emb.weight");
  const at::Tensor absorbed = at::empty_like(emb);
  ops::layer_norm(emb.const_data_ptr<float>(),
                  weights.at("w.blocks.0.ln0.weight").const_data_ptr<float>(),
                  weights.at("w.blocks.0.ln0.bias").const_data_ptr<float>(),
                  absorbed.mutable_data_ptr<float>(), emb.size(0), emb.size(1));
  report.compare("embedding with ln0", max_difference(absorbed, golden.at("emb_absorbed")), 2e-6);
  check_float(weights, golden, report);
  check_bytes(weights, golden, report);

  const auto net = load_inference(weights, {"cpu fp32i8", {}, {}});
  const at::Tensor ids = weights.at("idx")[0];
  State state;
  const at::Tensor steps = one_by_one(*net, ids, state);
  const at::Tensor all = net->forward(ids.unsqueeze(0)).squeeze(0);
  report.compare("i8 one call: logits", max_difference(all, golden.at("i8.seq_logits")), 2e-5);
  report.compare("i8 token by token: logits", max_difference(steps, golden.at("i8.one_logits")),
                 2e-5);
  report.compare("i8 vs float32 logits", max_difference(all, golden.at("seq_logits")), 0.15);
  const auto seed = load_inference(weights, {"cpu fp32i8-seed", {}, {}});
  const at::Tensor logits = seed->forward(ids.unsqueeze(0)).squeeze(0);
  report.compare("i8-seed vs float32 logits", max_difference(logits, golden.at("seq_logits")),
                 0.15);
}

void check_rescale(const fs::path& file, Report& report) {
  const at::NoGradGuard no_grad;
  const Tensors golden = load_pth(file);
  const at::Tensor& ids = golden.at("tokens");
  for (const std::string kind : {"plain", "rescaled"}) {
    const int64_t period = kind == "plain" ? 0 : golden.at("cfg.rescale_layer").item<int64_t>();
    const auto net = load_inference(golden, {"cpu fp32", {}, period});
    State state;
    const at::Tensor steps = one_by_one(*net, ids, state);
    const at::Tensor all = net->forward(ids.unsqueeze(0)).squeeze(0);
    const at::Tensor& expected = golden.at("logits_" + kind);
    report.compare(kind + ": token by token, logits", max_difference(steps, expected), 2e-5);
    report.compare(kind + ": one call, logits", max_difference(all, expected), 2e-5);
    const auto rows = golden.at("state_" + kind).unbind(0);
    report.compare(kind + ": state", state_difference(state, rows, kV4neoOrder), 2e-5);
  }
}

}  // namespace rwkv::golden
