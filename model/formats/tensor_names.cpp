#include "model/formats/tensor_names.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <numeric>
#include <set>
#include <utility>

#include "data/base/error.h"

namespace rwkv::formats {
namespace {

using std::string_view_literals::operator""sv;

constexpr std::array kPrefixes = {"module."sv, "model."sv, "_forward_module."sv, "_orig_mod."sv};
constexpr std::string_view kAnchor = "emb.weight";

struct Part {
  std::string_view released;
  std::string_view transformers;
};

// Parts of a name in the order of their replacement. The last ones end a name.
constexpr Part kParts[] = {
    {"emb.", "embeddings."},
    {".ln0.", ".pre_ln."},
    {".att.", ".attention."},
    {".ffn.", ".feed_forward."},
    {".time_mix_k", ".time_mix_key"},
    {".time_mix_v", ".time_mix_value"},
    {".time_mix_r", ".time_mix_receptance"},
};

bool ends_a_name(const Part& part) { return !part.released.ends_with('.'); }

void replace_part(std::string& name, std::string_view from, std::string_view to, bool at_end) {
  const size_t at =
      at_end && name.size() >= from.size() ? name.size() - from.size() : name.find(from);
  if (at == std::string::npos || name.compare(at, from.size(), from) != 0) return;
  name.replace(at, from.size(), to);
}

std::string from_transformers(std::string_view name) {
  if (name.starts_with("rwkv.")) name.remove_prefix(5);
  std::string out(name);
  for (const Part& part : kParts) {
    replace_part(out, part.transformers, part.released, ends_a_name(part));
  }
  return out;
}

bool are_transformers(const std::vector<TensorInfo>& tensors) {
  return std::any_of(tensors.begin(), tensors.end(), [](const TensorInfo& tensor) {
    const std::string_view name = tensor.name;
    return name == "rwkv.embeddings.weight" || name.ends_with("blocks.0.pre_ln.weight");
  });
}

/// What stands before emb.weight in a file whose names all begin with it; else nothing.
std::string common_prefix(const std::vector<TensorInfo>& tensors) {
  std::string prefix;
  for (const TensorInfo& tensor : tensors) {
    std::string_view rest = tensor.name;
    for (auto part = kPrefixes.begin(); part != kPrefixes.end();) {
      if (rest.starts_with(*part)) {
        rest.remove_prefix(part->size());
        part = kPrefixes.begin();
      } else {
        ++part;
      }
    }
    if (rest == kAnchor) prefix = tensor.name.substr(0, tensor.name.size() - rest.size());
  }
  const bool shared = std::all_of(tensors.begin(), tensors.end(), [&](const TensorInfo& tensor) {
    return tensor.name.starts_with(prefix);
  });
  return shared ? prefix : "";
}

}  // namespace

void use_released_names(std::vector<TensorInfo>& tensors, const std::string& source) {
  if (are_transformers(tensors)) {
    std::set<std::string_view> names;
    for (TensorInfo& tensor : tensors) tensor.name = from_transformers(tensor.name);
    for (const TensorInfo& tensor : tensors) {
      if (names.insert(tensor.name).second) continue;
      user_error("{}: two tensors mean {}, by two of transformers' names; save the model again",
                 source, printable(tensor.name));
    }
    return;
  }
  const std::string prefix = common_prefix(tensors);
  for (TensorInfo& tensor : tensors) tensor.name.erase(0, prefix.size());
}

std::string transformers_name(std::string_view name) {
  if (name == "head.weight") return "head.weight";
  std::string out(name);
  for (const Part& part : kParts) {
    replace_part(out, part.released, part.transformers, ends_a_name(part));
  }
  return "rwkv." + out;
}

bool is_mask_buffer(std::string_view name) {
  return name == "copy_mask" || name.ends_with(".tiny_mask") || name.ends_with(".att_mask");
}

int64_t block_of(std::string_view name) {
  constexpr std::string_view kBlocks = "blocks.";
  if (!name.starts_with(kBlocks)) return -1;
  name.remove_prefix(kBlocks.size());
  int64_t number = -1;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), number);
  const auto digits = static_cast<size_t>(end - name.data());
  constexpr int64_t kMost = 1'000'000;
  const bool fits =
      error == std::errc() && number < kMost && digits < name.size() && name[digits] == '.';
  return fits ? number : -1;
}

std::vector<size_t> released_order(const std::vector<TensorInfo>& tensors) {
  const auto place = [&](size_t i) -> std::pair<int, int64_t> {
    const std::string_view name = tensors[i].name;
    if (name.starts_with("emb.")) return {0, 0};
    if (const int64_t block = block_of(name); block >= 0) return {1, block};
    if (name.starts_with("ln_out.")) return {2, 0};
    return {name == "head.weight" ? 3 : 4, 0};
  };
  std::vector<size_t> order(tensors.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return place(a) < place(b); });
  return order;
}

}  // namespace rwkv::formats
