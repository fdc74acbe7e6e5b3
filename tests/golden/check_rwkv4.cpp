#include <torch/torch.h>

#include <algorithm>
#include <string>

#include "model/factory.h"
#include "model/init.h"
#include "model/precision.h"
#include "model/weights.h"
#include "tests/golden/golden.h"
#include "tests/golden/golden_tensors.h"
#include "trainer/loss.h"

namespace rwkv::golden {
namespace {

using model::LanguageModel;
using model::ModelConfig;
using model::Positions;
using model::State;

/// The tensors below `prefix`, without it.
Tensors below(const Tensors& all, const std::string& prefix) {
  Tensors found;
  for (const auto& [name, tensor] : all) {
    if (name.starts_with(prefix)) found[name.substr(prefix.size())] = tensor;
  }
  return found;
}

std::shared_ptr<LanguageModel> load_model(const Tensors& golden, at::ScalarType dtype) {
  const Tensors weights = below(golden, "w.");
  const auto net =
      model::build_model(model::config_from_shapes(model::shapes_of(weights), "golden"));
  net->to(golden_device(), dtype);
  model::load_weights(*net, weights, "golden");
  return net;
}

struct Bounds {
  const char* name;
  at::ScalarType dtype;
  double logits;
  double gradient;
};
// README of the golden folder: float64 logits 1e-9 and gradients 3e-7 (rounded to float32), float32
// 2e-5 each.
constexpr Bounds kFloat64{"float64", at::kDouble, 1e-9, 3e-7};
constexpr Bounds kFloat32{"float32", at::kFloat, 2e-5, 2e-5};

double largest_gradient_difference(LanguageModel& net, const Tensors& expected) {
  double worst = 0;
  for (const auto& entry : net.named_parameters()) {
    const auto found = expected.find(entry.key());
    if (found == expected.end()) throw std::runtime_error("no golden gradient of " + entry.key());
    worst = std::max(worst, relative_difference(entry.value().grad(), found->second));
  }
  return worst;
}

void check_parallel(const Tensors& golden, const Bounds& bounds, Report& report) {
  const auto net = load_model(golden, bounds.dtype);
  const std::string mode = std::string(bounds.name) + " ";
  const at::Tensor logits = net->forward(golden.at("idx"));
  report.compare(mode + "logits", max_difference(logits, golden.at("logits")), bounds.logits);

  at::Tensor for_loss = logits;
  for_loss.retain_grad();
  const at::Tensor loss = trainer::cross_entropy(for_loss, golden.at("targets"), {});
  report.compare(mode + "loss", max_difference(loss, golden.at("loss")), bounds.logits);
  loss.backward();
  if (golden.contains("dlogits")) {
    report.compare(mode + "dlogits", relative_difference(for_loss.grad(), golden.at("dlogits")),
                   bounds.gradient);
  }
  report.compare(mode + "gradients (with L2Wrap)",
                 largest_gradient_difference(*net, below(golden, "g.")), bounds.gradient);

  net->zero_grad();
  trainer::cross_entropy(net->forward(golden.at("idx")), golden.at("targets"), {.factor = 0})
      .backward();
  double worst = 0;
  for (const auto& [name, gradient] : below(golden, "g_ce.")) {
    worst = std::max(worst, relative_difference(net->named_parameters()[name].grad(), gradient));
  }
  report.compare(mode + "gradients without L2Wrap", worst, bounds.gradient);
}

/// Rows of our state by the golden's names: "att.0" is "blocks.0.att", "ffnPre.0" is
/// "blocks.0.ffnPre".
at::Tensor state_row(const State& state, const std::string& golden_name) {
  if (golden_name == "hk") return state.get("head_qk.k").squeeze(0);
  const auto first = golden_name.find('.');
  const auto second = golden_name.find('.', first + 1);
  const std::string name = "blocks." + golden_name.substr(first + 1, second - first - 1) + "." +
                           golden_name.substr(0, first);
  const std::string row = golden_name.substr(second + 1);
  // aa, bb, pp have a free common scale: compare aa/bb as aa, and pp + ln bb as pp; bb is then 1 on
  // both sides.
  if (row == "bb") return state.get(name + ".bb").squeeze(0);
  return state.get(name + "." + row).squeeze(0);
}

/// Largest difference of two WKV states given as (aa, bb, pp), through aa/bb and pp + ln bb.
double wkv_state_difference(const at::Tensor& aa, const at::Tensor& bb, const at::Tensor& pp,
                            const at::Tensor& aa_g, const at::Tensor& bb_g,
                            const at::Tensor& pp_g) {
  return std::max(max_difference(aa / bb, aa_g / bb_g),
                  max_difference(pp + bb.log(), pp_g + bb_g.log()));
}

/// Final state by names (files with rnn.state.*).
double named_state_difference(const State& state, const Tensors& expected) {
  double worst = 0;
  for (const auto& [name, row] : expected) {
    if (name.ends_with(".aa")) {
      const std::string stem = name.substr(0, name.size() - 2);
      worst = std::max(
          worst, wkv_state_difference(state_row(state, name), state_row(state, stem + "bb"),
                                      state_row(state, stem + "pp"), row, expected.at(stem + "bb"),
                                      expected.at(stem + "pp")));
    } else if (!name.ends_with(".bb") && !name.ends_with(".pp")) {
      worst = std::max(worst, max_difference(state_row(state, name), row));
    }
  }
  return worst;
}

/// State after one token against rnn.states[t], rows per layer in v4neo's order: ffn.xx, att.xx,
/// aa, bb, pp.
double v4neo_state_difference(const State& state, const at::Tensor& rows) {
  double worst = 0;
  for (int64_t layer = 0; layer * 5 < rows.size(0); ++layer) {
    const std::string name = "blocks." + std::to_string(layer);
    const auto ours = [&](const char* row) { return state.get(name + row).squeeze(0); };
    const auto theirs = [&](int64_t row) { return rows[layer * 5 + row]; };
    worst = std::max({worst, max_difference(ours(".ffn.xx"), theirs(0)),
                      max_difference(ours(".att.xx"), theirs(1)),
                      wkv_state_difference(ours(".att.aa"), ours(".att.bb"), ours(".att.pp"),
                                           theirs(2), theirs(3), theirs(4))});
  }
  return worst;
}

void check_recurrent(const Tensors& golden, const Bounds& bounds, Report& report) {
  if (!golden.contains("rnn.logits")) return;
  const torch::NoGradGuard no_grad;
  const auto net = load_model(golden, bounds.dtype);
  const std::string mode = std::string(bounds.name) + " RNN ";
  const at::Tensor ids = golden.at("idx")[0];
  const auto states = golden.find("rnn.states");
  State state;
  std::vector<at::Tensor> logits;
  double worst_state = 0;
  for (int64_t t = 0; t < ids.size(0); ++t) {
    const at::Tensor id = ids.slice(0, t, t + 1).unsqueeze(0);
    logits.push_back(net->forward(id, &state, Positions::kAll).view({-1}));
    if (states != golden.end()) {
      worst_state = std::max(worst_state, v4neo_state_difference(state, states->second[t]));
    }
  }
  report.compare(mode + "logits", max_difference(at::stack(logits), golden.at("rnn.logits")),
                 bounds.logits);
  if (states != golden.end()) {
    report.compare(mode + "state after each token", worst_state, bounds.logits);
  }
  const Tensors named = below(golden, "rnn.state.");
  if (!named.empty()) {
    report.compare(mode + "final state", named_state_difference(state, named), bounds.logits);
  }

  State prefilled;
  net->forward(ids.unsqueeze(0), &prefilled, Positions::kLast);
  if (!named.empty()) {
    report.compare(mode + "state of parallel prefill", named_state_difference(prefilled, named),
                   bounds.logits);
  } else if (states != golden.end()) {
    report.compare(mode + "state of parallel prefill",
                   v4neo_state_difference(prefilled, states->second[ids.size(0) - 1]),
                   bounds.logits);
  }
}

/// Weights and activations in bfloat16, as a bf16 run computes: the bounds of the golden README.
void check_bfloat16(const Tensors& golden, Report& report) {
  const torch::NoGradGuard no_grad;
  const auto net = load_model(golden, at::kFloat);
  model::convert_parameters(*net, at::kBFloat16);
  const at::Tensor& expected = golden.at("logits");
  const at::Tensor difference = net->forward(golden.at("idx")).to(at::kDouble) - expected;
  const auto rms = [](const at::Tensor& x) { return x.square().mean().sqrt().item<double>(); };
  report.compare("bfloat16 logits, RMS (relative)", rms(difference) / rms(expected), 0.03);
  report.compare("bfloat16 logits", difference.abs().max().item<double>(), 0.2);
}

}  // namespace

void check_rwkv4(const std::filesystem::path& file, Report& report) {
  const Tensors golden = load_pth(file);
  for (const Bounds& bounds : {kFloat64, kFloat32}) {
    check_parallel(golden, bounds, report);
    check_recurrent(golden, bounds, report);
  }
  check_bfloat16(golden, report);
}

namespace {

/// [min, max, mean, std] of a tensor as the golden stores them.
void check_random_matrix(const at::Tensor& ours, const at::Tensor& stat, bool is_embedding,
                         const std::string& name, Report& report) {
  const auto at_index = [&](int64_t i) { return stat[i].item<double>(); };
  const bool zero = stat.abs().max().item<double>() == 0;
  if (zero) {
    report.equal(name + " is zero", ours.abs().max().item<double>() == 0);
    return;
  }
  const auto std_ours = ours.std().item<double>();
  report.compare(name + " std (relative)", std::abs(std_ours / at_index(3) - 1), 0.1);
  if (is_embedding) {
    const double range = std::max(std::abs(at_index(0)), std::abs(at_index(1)));
    report.compare(name + " range (relative)",
                   std::abs(ours.abs().max().item<double>() / range - 1), 0.02);
  }
}

ModelConfig init_config(const Tensors& golden, const Tensors& exact, const Tensors& stat) {
  const auto cfg = [&](const char* name, int64_t fallback) {
    const auto found = golden.find(std::string("cfg.") + name);
    return found == golden.end() ? fallback : found->second.item<int64_t>();
  };
  int64_t n_layer = 0;
  for (const auto* set : {&exact, &stat}) {
    for (const auto& entry : *set) {
      if (entry.first.starts_with("blocks.")) {
        n_layer = std::max<int64_t>(n_layer, std::stoll(entry.first.substr(7)) + 1);
      }
    }
  }
  ModelConfig config;
  config.n_layer = cfg("n_layer", n_layer);
  config.n_embd =
      cfg("n_embd", exact.contains("ln_out.weight") ? exact.at("ln_out.weight").size(0) : 64);
  config.dim_att = cfg("dim_att", 0);
  config.dim_ffn = cfg("dim_ffn", 0);
  config.vocab_size = cfg("vocab_size", 97);
  config.head_qk = stat.contains("head_k.weight") ? cfg("head_qk", 16) : 0;
  return config;
}

}  // namespace

void check_rwkv4_init(const std::filesystem::path& file, Report& report) {
  const Tensors golden = load_pth(file);
  // neo4b holds 4b alone; v4 and v4_scripted are older rules that we do not follow (models-rwkv4,
  // section 3).
  for (const std::string set : {"neo", "neo_preffn"}) {
    const Tensors exact = below(golden, set + ".exact.");
    const Tensors stat = below(golden, set + ".stat.");
    const Tensors singular = below(golden, set + ".sv.");
    if (exact.empty() && stat.empty()) continue;
    ModelConfig config =
        init_config(golden, below(golden, "neo.exact."), below(golden, "neo.stat."));
    config.pre_ffn = set == "neo_preffn";
    const auto net = model::build_model(config);
    const double emb_range =
        golden.contains("neo.stat.emb.weight")
            ? golden.at("neo.stat.emb.weight").abs().slice(0, 0, 2).max().item<double>()
            : 6e-4;
    model::init_weights(*net, 1, emb_range);
    const auto parameters = net->named_parameters();
    double worst = 0;
    for (const auto& [name, value] : exact) {
      worst = std::max(worst, max_difference(parameters[name], value));
    }
    if (!exact.empty()) report.compare(set + " fixed tensors", worst, 1e-6);
    const torch::NoGradGuard no_grad;
    for (const auto& [name, value] : stat) {
      check_random_matrix(parameters[name], value, name == "emb.weight", set + " " + name, report);
      if (!singular.contains(name) || name == "emb.weight") continue;
      const at::Tensor ours = at::linalg_svdvals(parameters[name].to(at::kDouble));
      const at::Tensor ends = at::stack({ours.min(), ours.max()});
      report.compare(set + " " + name + " singular values",
                     relative_difference(ends, singular.at(name)), 1e-4);
    }
  }
}

}  // namespace rwkv::golden
