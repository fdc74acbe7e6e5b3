#include <torch/torch.h>

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <string>

#include "tests/golden/golden.h"
#include "tests/golden/golden_tensors.h"
#include "trainer/loss.h"
#include "trainer/optimizer.h"

namespace rwkv::golden {
namespace {

using trainer::Adam;
using trainer::OptimizedParameter;
using trainer::OptimizerConfig;

/// Whether a case's parameters are those of RWKV-4, whose grouping rule ours is; v5 to v7 have
/// others.
bool has_rwkv4_names(const nlohmann::json& params) {
  return std::none_of(params.begin(), params.end(), [](const nlohmann::json& p) {
    const auto name = p.at("name").get<std::string>();
    for (const char* part : {"ln_x", "time_maa", "att.r_k", "time_faaaa", "time_daaaa", "gate"}) {
      if (name.find(part) != std::string::npos) return true;
    }
    return false;
  });
}

}  // namespace

void check_groups(const std::filesystem::path& file, Report& report) {
  std::ifstream in(file);
  const nlohmann::json golden = nlohmann::json::parse(in);
  for (const auto& test : golden.at("cases")) {
    if (!has_rwkv4_names(test.at("params"))) continue;
    const auto& c = test.at("config");
    OptimizerConfig config;
    config.layerwise_lr = c.at("layerwise_lr").get<int>() > 0;
    config.weight_decay = c.at("weight_decay").get<double>();
    std::vector<OptimizedParameter> parameters;
    for (const auto& p : test.at("params")) {
      parameters.push_back(
          {p.at("name"), at::empty(p.at("shape").get<std::vector<int64_t>>()), 1, false});
    }
    trainer::assign_groups(parameters, config, c.at("stage").get<int64_t>());
    int wrong = 0;
    for (size_t i = 0; i < parameters.size(); ++i) {
      const auto& p = test.at("params")[i];
      const double decay = parameters[i].decays ? config.weight_decay : 0.0;
      const bool same = parameters[i].lr_scale == p.at("lr_scale").get<double>() &&
                        decay == p.at("weight_decay").get<double>();
      wrong += same ? 0 : 1;
    }
    report.compare(test.at("name").get<std::string>() + ": wrong groups", wrong, 0);
    const bool adam_w = test.at("optimizer_args").at("adam_w_mode").get<bool>();
    report.equal(test.at("name").get<std::string>() + ": mode",
                 trainer::uses_adam_w(config) == adam_w);
  }
}

namespace {

std::string part_after(const std::string& text, const std::string& prefix) {
  return text.substr(prefix.size());
}

double scalar(const Tensors& golden, const std::string& name) {
  return golden.at(name).to(at::kDouble).flatten()[0].item<double>();
}

/// One case of adam.pth: the updates 1..5 from given gradients.
void check_adam_case(const Tensors& golden, const std::string& name, Report& report) {
  OptimizerConfig config;
  const at::Tensor betas = golden.at(name + "/meta/betas").to(at::kDouble);
  const double decay = [&] {
    double largest = 0;
    for (const auto& [key, value] : golden) {
      if (key.starts_with(name + "/meta/weight_decay/")) {
        largest = std::max(largest, scalar(golden, key));
      }
    }
    return largest;
  }();
  config.eps = scalar(golden, name + "/meta/eps");
  config.grad_clip = scalar(golden, name + "/meta/clip");
  config.weight_decay = decay;
  config.adam_w_mode = scalar(golden, name + "/meta/adam_w_mode") != 0 ? trainer::AdamMode::kAdamW
                                                                       : trainer::AdamMode::kL2;

  std::vector<OptimizedParameter> parameters;
  const std::string init = name + "/init/";
  for (const auto& [key, value] : golden) {
    if (!key.starts_with(init)) continue;
    const std::string parameter = part_after(key, init);
    const auto meta = [&](const char* kind) {
      const std::string path = name + "/meta/" + kind + "/" + parameter;
      return golden.contains(path) ? scalar(golden, path) : -1.0;
    };
    parameters.push_back({parameter, value.to(at::kFloat).clone().set_requires_grad(true),
                          meta("lr_scale") < 0 ? 1.0 : meta("lr_scale"), meta("weight_decay") > 0});
  }
  Adam adam(parameters, config);
  double worst = 0;
  double worst_norm = 0;
  double largest = 0;
  for (int step = 1; golden.contains(name + "/lr/" + std::to_string(step)); ++step) {
    const std::string t = std::to_string(step);
    for (const OptimizedParameter& p : adam.parameters()) {
      at::Tensor value = p.value;
      value.mutable_grad() = golden.at(name + "/grad/" + t + "/" + p.name).to(at::kFloat).clone();
    }
    const double norm = adam.gradient_norm();
    worst_norm = std::max(worst_norm, std::abs(norm / scalar(golden, name + "/norm/" + t) - 1));
    adam.step({scalar(golden, name + "/lr/" + t),
               {betas[0].item<double>(), betas[1].item<double>()},
               decay},
              norm);
    for (const OptimizedParameter& p : adam.parameters()) {
      const at::Tensor& expected = golden.at(name + "/param/" + t + "/" + p.name);
      worst = std::max(worst, max_difference(p.value, expected));
      largest = std::max(largest, expected.abs().max().item<double>());
    }
  }
  report.compare(name + ": norm (relative)", worst_norm, 1e-6);
  report.compare(name + ": parameters (of the largest)", worst / largest, 1e-6);
  double moments = 0;
  for (size_t i = 0; i < adam.parameters().size(); ++i) {
    const std::string& p = adam.parameters()[i].name;
    moments = std::max(
        {moments, relative_difference(adam.exp_avg()[i], golden.at(name + "/exp_avg/" + p)),
         relative_difference(adam.exp_avg_sq()[i], golden.at(name + "/exp_avg_sq/" + p))});
  }
  // LibTorch's fused kernel takes 1 - beta2 in float32, which is off by 5e-5 for 0.999.
  report.compare(name + ": moments (relative)", moments, 6e-5);
}

}  // namespace

void check_adam(const std::filesystem::path& file, Report& report) {
  const Tensors golden = load_pth(file);
  std::set<std::string> cases;
  for (const auto& entry : golden) cases.insert(entry.first.substr(0, entry.first.find('/')));
  for (const std::string& name : cases) check_adam_case(golden, name, report);
}

namespace {

/// Loss and gradient of logits for one set-up, in float64.
struct LossAndGradient {
  at::Tensor loss;
  at::Tensor gradient;
};

LossAndGradient run_loss(const at::Tensor& logits, const at::Tensor& targets,
                         const at::Tensor& mask, const trainer::L2Wrap& l2wrap, double loss_scale) {
  const at::Tensor input = logits.to(at::kDouble).clone().set_requires_grad(true);
  const at::Tensor loss = trainer::cross_entropy(input, targets, l2wrap, mask);
  (loss * loss_scale).backward();
  return {loss.detach(), input.grad()};
}

}  // namespace

void check_l2wrap(const std::filesystem::path& file, Report& report) {
  const Tensors golden = load_pth(file);
  std::set<std::string> cases;
  for (const auto& entry : golden) cases.insert(entry.first.substr(0, entry.first.find('/')));
  for (const std::string& name : cases) {
    const auto get = [&](const char* key) {
      const auto found = golden.find(name + "/" + key);
      return found == golden.end() ? at::Tensor() : found->second;
    };
    const at::Tensor targets = get("targets").view_as(get("logits").select(-1, 0));
    const at::Tensor mask = get("mask").defined() ? get("mask").view_as(targets) : at::Tensor();
    const auto ours = run_loss(get("logits"), targets, mask, {}, 1);
    report.compare(name + ": loss",
                   max_difference(ours.loss, get("loss").reshape(at::IntArrayRef())), 1e-6);
    report.compare(name + ": gradient", max_difference(ours.gradient, get("grad_logits")), 1e-6);
    if (const at::Tensor times8 = get("grad_logits_when_loss_times_8"); times8.defined()) {
      const auto compat =
          run_loss(get("logits"), targets, mask, {.ignore_incoming_gradient = true}, 8);
      report.compare(name + ": gradient, loss times 8, compat",
                     max_difference(compat.gradient, times8), 1e-6);
    }
  }
}

void check_loss(const std::filesystem::path& file, Report& report) {
  const Tensors golden = load_pth(file);
  const at::Tensor& logits = golden.at("logits");
  const at::Tensor& targets = golden.at("targets");
  const auto plain = run_loss(logits, targets, {}, {.factor = 0}, 1);
  const auto wrapped = run_loss(logits, targets, {}, {}, 1);
  const auto half = run_loss(logits, targets, {}, {.ignore_incoming_gradient = true}, 0.5);
  const auto masked = run_loss(logits, targets, golden.at("mask"), {}, 1);
  report.compare("loss", max_difference(wrapped.loss, golden.at("loss").reshape(at::IntArrayRef())),
                 1e-9);
  report.compare("dlogits_ce", max_difference(plain.gradient, golden.at("dlogits_ce")), 1e-7);
  report.compare("dlogits_l2wrap", max_difference(wrapped.gradient, golden.at("dlogits_l2wrap")),
                 1e-7);
  report.compare("dlogits_l2wrap_half",
                 max_difference(half.gradient, golden.at("dlogits_l2wrap_half")), 1e-7);
  report.compare("masked_loss",
                 max_difference(masked.loss, golden.at("masked_loss").reshape(at::IntArrayRef())),
                 1e-9);
  report.compare("masked_dlogits_l2wrap",
                 max_difference(masked.gradient, golden.at("masked_dlogits_l2wrap")), 1e-7);
}

}  // namespace rwkv::golden
