#include <torch/torch.h>

#include <algorithm>
#include <set>
#include <stdexcept>
#include <string>

#include "cuda/ops.h"
#include "tests/golden/golden.h"
#include "tests/golden/golden_tensors.h"

namespace rwkv::golden {
namespace {

/// The tensors of one case, without its name in front.
Tensors case_of(const Tensors& all, const std::string& name) {
  Tensors found;
  const std::string prefix = name + ".";
  for (const auto& [key, tensor] : all) {
    if (key.starts_with(prefix)) found[key.substr(prefix.size())] = tensor;
  }
  return found;
}

const at::Tensor& input(const Tensors& in, const std::string& case_name, const char* key) {
  const auto found = in.find(key);
  if (found == in.end()) throw std::runtime_error("case " + case_name + " has no tensor " + key);
  return found->second;
}

/// Bound for float32 arithmetic, relative to the tensor's maximum: a key of magnitude K loses K
/// 2^-24 in every exponent, and sums over many tokens add up.
double float_bound(const Tensors& in) {
  const double largest_key = in.at("k").to(at::kDouble).abs().max().item<double>();
  return largest_key > 10 || in.at("k").size(1) > 256 ? 1e-4 : 2e-6;
}

double bound_of(at::ScalarType type, const Tensors& in, const at::Tensor& stored) {
  if (type == at::kBFloat16) return 2e-2;
  if (type == at::kFloat) return float_bound(in);
  return stored.scalar_type() == at::kDouble ? 1e-9 : 3e-7;
}

/// One case in one type of arithmetic.
class Case {
 public:
  Case(const std::string& name, const Tensors& in, at::ScalarType type, Report& report)
      : name_(name), in_(in), type_(type), report_(report) {}

  void check() {
    at::Tensor w = leaf("w"), u = leaf("u"), k = leaf("k"), v = leaf("v");
    ops::Wkv4State state;
    if (in_.contains("pp0")) state = {leaf("aa0"), leaf("bb0"), leaf("pp0")};
    const auto [y, a, b, p] = ops::wkv4(w, u, k, v, state);
    compare("y", y);
    for (const char* suffix : {"", "_T"}) compare_state(suffix, a, b, p);
    if (!in_.contains("gy")) return;
    const auto gradients = torch::autograd::grad({y}, {w, u, k, v}, {leaf("gy").detach()});
    const char* const names[] = {"gw", "gu", "gk", "gv"};
    for (size_t i = 0; i < gradients.size(); ++i) compare(names[i], gradients[i]);
  }

 private:
  at::Tensor leaf(const char* key) const {
    // The state of bfloat16 keys is float32.
    const bool is_state = std::string(key).ends_with("0");
    const auto type = is_state && type_ == at::kBFloat16 ? at::kFloat : type_;
    return input(in_, name_, key).to(type).detach().clone().requires_grad_();
  }

  /// bfloat16 results are judged by the float64 results of the same rounded inputs, where the file
  /// has them.
  const at::Tensor* stored(const std::string& key) const {
    for (const std::string& full : {"f64_" + key, key}) {
      const auto found = in_.find(full);
      if (found != in_.end()) return &found->second;
    }
    return nullptr;
  }

  std::string label(const std::string& quantity) const {
    return name_ + "." + quantity + " " + c10::toString(type_);
  }

  void compare(const std::string& key, const at::Tensor& ours) {
    const at::Tensor* const expected = stored(key);
    if (expected == nullptr) return;
    report_.compare(label(key), relative_difference(ours, *expected),
                    bound_of(type_, in_, *expected));
  }

  /// States have a free scale: compares A and B on the scale of the stored exponent. An empty
  /// state, in which every exponent means the same, compares as 0 with 0.
  void compare_state(const std::string& suffix, const at::Tensor& a, const at::Tensor& b,
                     const at::Tensor& p) {
    const auto stored_p = in_.find("pp" + suffix);
    if (stored_p == in_.end()) return;
    const at::Tensor& expected_a = input(in_, name_, ("aa" + suffix).c_str());
    const at::Tensor& expected_b = input(in_, name_, ("bb" + suffix).c_str());
    const at::Tensor scale =
        at::where(b == 0, 0.0, (p.to(at::kDouble) - stored_p->second.to(at::kDouble)).exp());
    const double bound = bound_of(type_, in_, expected_a);
    report_.compare(label("aa" + suffix), relative_difference(a * scale, expected_a), bound);
    report_.compare(label("bb" + suffix), relative_difference(b * scale, expected_b), bound);
  }

  const std::string& name_;
  const Tensors& in_;
  at::ScalarType type_;
  Report& report_;
};

}  // namespace

void check_wkv4(const std::filesystem::path& file, Report& report) {
  const Tensors all = load_pth(file);
  std::set<std::string> names;
  for (const auto& [key, tensor] : all) names.insert(key.substr(0, key.find('.')));
  for (const std::string& name : names) {
    const Tensors in = case_of(all, name);
    if (input(in, name, "k").scalar_type() == at::kBFloat16) {
      Case(name, in, at::kBFloat16, report).check();
    } else {
      Case(name, in, at::kDouble, report).check();
      Case(name, in, at::kFloat, report).check();
    }
  }
}

}  // namespace rwkv::golden
