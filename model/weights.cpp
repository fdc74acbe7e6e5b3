#include "model/weights.h"

#include <fmt/ranges.h>
#include <torch/torch.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <set>
#include <utility>

#include "data/base/error.h"
#include "model/formats/element_types.h"
#include "model/formats/layout.h"
#include "model/formats/pth_writer.h"
#include "model/formats/safetensors.h"
#include "model/formats/tensor_file.h"
#include "model/formats/tensor_names.h"

namespace rwkv::model {
namespace {

using formats::DType;

constexpr std::array<std::pair<DType, at::ScalarType>, 10> kTypes{{
    {DType::f64, at::kDouble},
    {DType::f32, at::kFloat},
    {DType::f16, at::kHalf},
    {DType::bf16, at::kBFloat16},
    {DType::i64, at::kLong},
    {DType::i32, at::kInt},
    {DType::i16, at::kShort},
    {DType::i8, at::kChar},
    {DType::u8, at::kByte},
    {DType::boolean, at::kBool},
}};

at::ScalarType scalar_type(const formats::TensorInfo& info, const std::string& file) {
  for (const auto& [dtype, type] : kTypes) {
    if (dtype == info.dtype) return type;
  }
  user_error("{}: {} is stored as {}, which no model weight uses; convert it to fp32, fp16 or bf16",
             file, printable(info.name), formats::dtype_name(info.dtype));
}

DType file_dtype(const at::Tensor& tensor) {
  for (const auto& [dtype, type] : kTypes) {
    if (type == tensor.scalar_type()) return dtype;
  }
  throw std::logic_error(std::string("no file type for ") + c10::toString(tensor.scalar_type()));
}

std::span<std::byte> bytes_of(const at::Tensor& tensor) {
  return {static_cast<std::byte*>(tensor.mutable_data_ptr()), tensor.nbytes()};
}

using formats::is_mask_buffer;

std::string shape_text(at::IntArrayRef shape) { return fmt::format("[{}]", fmt::join(shape, ",")); }

/// [1,1,C] and [C] hold the same time_mix; everything else must agree exactly.
bool fits(at::IntArrayRef shape, at::IntArrayRef parameter) {
  return shape == parameter || (parameter.size() == 3 && shape.size() == 1 &&
                                shape[0] == c10::multiply_integers(parameter));
}

/// What keeps tensors of these shapes from being the parameters, one entry each.
std::vector<std::string> mismatches(LanguageModel& model, const Shapes& shapes) {
  std::vector<std::string> problems;
  std::set<std::string> known;
  for (const auto& entry : model.named_parameters()) {
    known.insert(entry.key());
    const auto found = shapes.find(entry.key());
    if (found == shapes.end()) {
      problems.push_back(fmt::format("{} is missing", entry.key()));
    } else if (!fits(found->second, entry.value().sizes())) {
      problems.push_back(fmt::format("{} is {}, expected {}", entry.key(),
                                     shape_text(found->second), shape_text(entry.value().sizes())));
    }
  }
  for (const auto& [name, shape] : shapes) {
    if (!known.contains(name) && !is_mask_buffer(name)) {
      problems.push_back(fmt::format("{} is unknown", printable(name, 80)));
    }
  }
  return problems;
}

void check_fit(LanguageModel& model, const Shapes& shapes, const std::string& where) {
  const std::vector<std::string> problems = mismatches(model, shapes);
  if (!problems.empty()) {
    user_error("{} does not fit the model: {}", where, fmt::join(problems, "; "));
  }
}

/// `vector` stretched to `size` elements: pos = i / size * n; the last value from n - 1 on.
at::Tensor stretched(const at::Tensor& vector, int64_t size) {
  const int64_t n = vector.size(0);
  const at::Tensor pos =
      at::arange(size, at::kDouble) / static_cast<double>(size) * static_cast<double>(n);
  const at::Tensor low = pos.floor().to(at::kLong).clamp(0, n - 1);
  const at::Tensor high = (low + 1).clamp(0, n - 1);
  const at::Tensor part = pos - pos.floor();
  const at::Tensor wide = vector.to(at::kDouble);
  return wide.index_select(0, low) * (1 - part) + wide.index_select(0, high) * part;
}

int64_t dims_beyond_one(at::IntArrayRef shape) {
  return std::count_if(shape.begin(), shape.end(), [](int64_t size) { return size != 1; });
}

int64_t size_of(const Shapes& shapes, const std::string& name, size_t dim,
                const std::string& where) {
  const auto found = shapes.find(name);
  if (found == shapes.end() || found->second.size() <= dim || found->second[dim] <= 0) {
    user_error(
        "{}: this is no RWKV-4 model: {} is missing or has no dimension {}; name a file of RWKV-4 "
        "weights",
        where, name, dim);
  }
  return found->second[dim];
}

int64_t count_layers(const Shapes& shapes) {
  int64_t layers = 0;
  while (shapes.contains(fmt::format("blocks.{}.ln1.weight", layers))) ++layers;
  return layers;
}

/// Place in a file: emb first, blocks by number, then ln_out, head and the rest.
std::tuple<int, int64_t, std::string> file_order(const std::string& name) {
  if (name.starts_with("emb.")) return {0, 0, name};
  if (name.starts_with("blocks.")) return {1, std::stoll(name.substr(7)), name};
  if (name.starts_with("ln_out.")) return {2, 0, name};
  return {3, 0, name};
}

}  // namespace

Tensors read_tensors(const std::filesystem::path& path) {
  const formats::TensorFile file = formats::open_tensor_file(path);
  const std::string name = printable(path.string());
  Tensors tensors;
  for (const formats::TensorInfo& info : file.tensors()) {
    file.verify(info);
    at::Tensor tensor = at::empty(info.shape, scalar_type(info, name));
    info.copy_row_major(bytes_of(tensor));
    tensors[info.name] = tensor;
  }
  file.check_unchanged();
  return tensors;
}

Shapes shapes_of(const Tensors& tensors) {
  Shapes shapes;
  for (const auto& [name, tensor] : tensors) shapes[name] = tensor.sizes().vec();
  return shapes;
}

ModelConfig config_from_shapes(const Shapes& shapes, const std::string& where) {
  for (const auto& [name, shape] : shapes) {
    for (const char* part :
         {"att.r_k", "time_maa", "att.ln_x", "tiny_", "att.qq", "xatt", "pos_emb_"}) {
      if (name.find(part) != std::string::npos && !is_mask_buffer(name)) {
        user_error(
            "{}: {} belongs to a kind of RWKV that this program does not run yet; use plain RWKV-4 "
            "weights "
            "(with or without pre_ffn and Head-QK)",
            where, printable(name, 80));
      }
    }
  }
  ModelConfig config;
  config.arch = "rwkv4";
  config.n_layer = count_layers(shapes);
  config.vocab_size = size_of(shapes, "emb.weight", 0, where);
  config.n_embd = size_of(shapes, "emb.weight", 1, where);
  if (config.n_layer == 0) user_error("{}: this is no RWKV-4 model: it has no blocks", where);
  config.pre_ffn = shapes.contains("blocks.0.ffnPre.key.weight");
  const std::string att = fmt::format("blocks.{}.att.key.weight", config.pre_ffn ? 1 : 0);
  const bool has_att = shapes.contains(att) || !config.pre_ffn || config.n_layer > 1;
  const int64_t dim_att = has_att ? size_of(shapes, att, 0, where) : config.n_embd;
  const int64_t dim_ffn = size_of(shapes, "blocks.0.ffn.key.weight", 0, where);
  // 0 is the default's name, so that a configuration read back equals the one that was trained.
  config.dim_att = dim_att == config.n_embd ? 0 : dim_att;
  config.dim_ffn = dim_ffn == 4 * config.n_embd ? 0 : dim_ffn;
  if (shapes.contains("head_q.weight")) config.head_qk = size_of(shapes, "head_q.weight", 0, where);
  return config;
}

ModelConfig config_of(const formats::TensorFile& file) {
  return config_from_shapes(formats::shapes_of(file.tensors()), file.name());
}

void read_into(const formats::TensorFile& file, const formats::TensorInfo& info, at::Tensor into) {
  TORCH_CHECK(into.numel() == info.numel(), "read_into: ", info.name, " has ", info.numel(),
              " elements, the tensor ", into.numel());
  const torch::NoGradGuard no_grad;
  const DType dtype = file_dtype(into);
  const bool direct = into.is_cpu() && into.is_contiguous() &&
                      (formats::is_weight_dtype(dtype) || dtype == info.dtype);
  if (direct) {
    file.read(info, dtype, bytes_of(into));
    return;
  }
  const at::Tensor staged = at::empty(info.shape, at::kFloat);
  file.read(info, DType::f32, bytes_of(staged));
  into.copy_(staged.view(into.sizes()));
}

void load_weights(LanguageModel& model, const formats::TensorFile& file,
                  const LoadProgress& progress) {
  check_fit(model, formats::shapes_of(file.tensors()), file.name());
  const auto parameters = model.named_parameters();
  int64_t all = 0;
  for (const auto& entry : parameters) all += file.find(entry.key())->size_bytes();
  int64_t done = 0;
  for (const auto& entry : parameters) {
    const formats::TensorInfo& info = *file.find(entry.key());
    read_into(file, info, entry.value());
    done += info.size_bytes();
    if (progress) progress(done, all);
  }
  file.check_unchanged();
}

PartialLoad load_weights_partially(LanguageModel& model, const formats::TensorFile& file) {
  PartialLoad result;
  std::set<std::string> known;
  for (const auto& entry : model.named_parameters()) {
    const std::string& name = entry.key();
    at::Tensor parameter = entry.value();
    known.insert(name);
    const formats::TensorInfo* info = file.find(name);
    if (info == nullptr) {
      result.missing.push_back(name);
      continue;
    }
    const std::string change =
        fmt::format("{} {} -> {}", name, shape_text(info->shape), shape_text(parameter.sizes()));
    if (info->numel() == parameter.numel()) {
      read_into(file, *info, parameter);
      if (fits(info->shape, parameter.sizes())) {
        ++result.loaded;
      } else {
        result.reshaped.push_back(change);
      }
    } else if (info->numel() > 0 && dims_beyond_one(info->shape) == 1 &&
               dims_beyond_one(parameter.sizes()) == 1) {
      const at::Tensor vector = at::empty({info->numel()}, at::kFloat);
      read_into(file, *info, vector);
      const torch::NoGradGuard no_grad;
      parameter.copy_(stretched(vector, parameter.numel()).view(parameter.sizes()));
      result.stretched.push_back(change);
    } else {
      result.unfit.push_back(change);
    }
  }
  for (const formats::TensorInfo& info : file.tensors()) {
    if (!known.contains(info.name) && !is_mask_buffer(info.name)) {
      result.left_over.push_back(printable(info.name, 80));
    }
  }
  file.check_unchanged();
  return result;
}

void load_weights(LanguageModel& model, const Tensors& tensors, const std::string& where) {
  check_fit(model, shapes_of(tensors), where);
  const torch::NoGradGuard no_grad;
  for (const auto& entry : model.named_parameters()) {
    at::Tensor parameter = entry.value();
    parameter.copy_(tensors.at(entry.key()).view(parameter.sizes()));
  }
}

void sort_for_file(NamedTensors& weights) {
  std::sort(weights.begin(), weights.end(),
            [](const auto& a, const auto& b) { return file_order(a.first) < file_order(b.first); });
}

NamedTensors ordered_parameters(const LanguageModel& model) {
  NamedTensors parameters;
  for (const auto& entry : model.named_parameters()) {
    parameters.emplace_back(entry.key(), entry.value().detach());
  }
  sort_for_file(parameters);
  return parameters;
}

namespace {

std::vector<formats::TensorSpec> specs_of(
    const std::vector<std::pair<std::string, at::Tensor>>& tensors) {
  std::vector<formats::TensorSpec> specs;
  for (const auto& [name, tensor] : tensors) {
    specs.push_back({name, file_dtype(tensor), tensor.sizes().vec()});
  }
  return specs;
}

/// Hands out the tensors' bytes, at most one copy (of a tensor that is not contiguous or on another
/// device) at a time.
formats::TensorBytes bytes_from(const std::vector<std::pair<std::string, at::Tensor>>& tensors) {
  return [&tensors, held = at::Tensor()](size_t index) mutable {
    held = tensors.at(index).second.cpu().contiguous();
    return std::span<const std::byte>(bytes_of(held));
  };
}

}  // namespace

void save_pth(const LanguageModel& model, const std::filesystem::path& file) {
  const auto parameters = ordered_parameters(model);
  formats::write_pth(file, specs_of(parameters), bytes_from(parameters));
}

WrittenFile save_safetensors(const std::vector<std::pair<std::string, at::Tensor>>& tensors,
                             const std::filesystem::path& file,
                             const std::map<std::string, std::string>& metadata) {
  const formats::WrittenFile written =
      formats::write_safetensors(file, specs_of(tensors), bytes_from(tensors), metadata);
  return {written.size_bytes, written.crc32c};
}

}  // namespace rwkv::model
