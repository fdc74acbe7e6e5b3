#include "model/formats/convert.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <span>
#include <utility>

#include "data/base/error.h"
#include "model/formats/element_types.h"
#include "model/formats/huggingface_writer.h"
#include "model/formats/layout.h"
#include "model/formats/pth_writer.h"
#include "model/formats/rwkv_cpp.h"
#include "model/formats/safetensors.h"
#include "model/formats/tensor_names.h"

namespace rwkv::formats {
namespace {

namespace fs = std::filesystem;

std::string name_of(const fs::path& path) { return printable(path.string(), 4096); }

bool is_time_mix(std::string_view name) {
  return name.find(".time_mix_") != std::string_view::npos;
}

/// One tensor of the output: where it comes from, and what is stored.
struct Item {
  const TensorInfo* source;
  TensorSpec spec;
};

class Converter {
 public:
  Converter(const TensorFile& in, const ConvertOptions& options);

  ConvertReport run(const fs::path& out);

 private:
  void refuse_unfit() const;
  void add_notes();
  [[nodiscard]] DType matrix_dtype() const;
  void plan();
  [[nodiscard]] TensorSpec spec_of(const TensorInfo& tensor) const;
  std::span<const std::byte> bytes_of(size_t index);
  void write(const fs::path& out);

  const TensorFile& in_;
  const ConvertOptions& options_;
  Layout layout_;
  std::vector<Item> items_;
  std::vector<TensorSpec> specs_;
  std::unique_ptr<std::byte[]> buffer_;  // holds the largest tensor
  int64_t done_ = 0;
  ConvertReport report_;
};

Converter::Converter(const TensorFile& in, const ConvertOptions& options)
    : in_(in), options_(options) {
  const auto layout = recognise_rwkv(shapes_of(in.tensors()));
  if (!layout) {
    user_error(
        "{} holds no RWKV weights (no emb.weight and blocks.0.ffn.key.weight); nothing to convert",
        in.name());
  }
  layout_ = *layout;
}

ConvertReport Converter::run(const fs::path& out) {
  refuse_unfit();
  plan();
  add_notes();
  write(out);
  in_.check_unchanged();
  return std::move(report_);
}

/// Options that transformers and rwkv.cpp do not know would be lost without a word.
void Converter::refuse_unfit() const {
  const bool any_layout =
      options_.target == Target::kPth || options_.target == Target::kSafetensors;
  if (any_layout) return;
  const bool hugging_face = options_.target == Target::kHuggingFace;
  const char* target = hugging_face ? "transformers (RwkvForCausalLM)" : "rwkv.cpp";
  std::vector<std::string> reasons = options_of(layout_);
  if (layout_.version != "4") reasons = {fmt::format("RWKV-{}", layout_.version)};
  if (!reasons.empty()) {
    user_error("{}: {} cannot express {}; write a .pth or .safetensors instead", in_.name(), target,
               fmt::join(reasons, " and "));
  }
  if (hugging_face && layout_.n_layer == 1) {
    user_error("{}: transformers cannot build an RWKV of one layer; write a .pth instead",
               in_.name());
  }
  if (hugging_face && in_.find("blocks.0.ln0.weight") == nullptr) {
    user_error("{}: blocks.0.ln0.weight is missing, which transformers needs", in_.name());
  }
}

void Converter::add_notes() {
  const std::vector<std::string> options = options_of(layout_);
  if (!options.empty()) {
    report_.notes.push_back(fmt::format(
        "the model has {}, which the rwkv package and transformers ignore or refuse: use this file "
        "with programs that know it",
        fmt::join(options, " and ")));
  }
  if (options_.target == Target::kHuggingFace && layout_.dim_att != layout_.n_embd) {
    report_.notes.emplace_back(
        "dim_att differs from n_embd, so config.json switches transformers' use_cache off");
  }
  const bool reduced = options_.dtype && *options_.dtype != DType::f32;
  if (options_.target == Target::kPth && reduced && layout_.version == "4") {
    report_.notes.push_back(fmt::format(
        "the rwkv package folds ln0 into the embedding in the file's {}, which costs accuracy even "
        "under \"cpu fp32\"",
        dtype_name(*options_.dtype)));
  }
}

/// Of the matrices in an rwkv.cpp file.
DType Converter::matrix_dtype() const {
  if (options_.dtype) return *options_.dtype;
  const bool all_half =
      std::all_of(in_.tensors().begin(), in_.tensors().end(),
                  [](const TensorInfo& t) { return t.shape.size() < 2 || t.dtype == DType::f16; });
  return all_half ? DType::f16 : DType::f32;
}

TensorSpec Converter::spec_of(const TensorInfo& tensor) const {
  TensorSpec spec{.name = tensor.name, .dtype = tensor.dtype, .shape = tensor.shape};
  if (options_.target == Target::kRwkvCpp) {
    spec.shape = rwkv_cpp_shape(tensor.name, tensor.shape);
    spec.dtype = rwkv_cpp_dtype(tensor.name, spec.shape, matrix_dtype());
    return spec;
  }
  if (options_.dtype) spec.dtype = *options_.dtype;
  const bool hugging_face = options_.target == Target::kHuggingFace;
  if (hugging_face && !is_weight_dtype(spec.dtype)) spec.dtype = DType::f32;
  // rwkv.cpp stores them as [C]; everybody else has [1,1,C].
  if (is_time_mix(tensor.name) && spec.shape.size() == 1)
    spec.shape.insert(spec.shape.begin(), 2, 1);
  if (hugging_face) spec.name = transformers_name(tensor.name);
  return spec;
}

void Converter::plan() {
  int64_t largest = 0;
  for (const size_t i : released_order(in_.tensors())) {
    const TensorInfo& tensor = in_.tensors()[i];
    if (is_mask_buffer(tensor.name)) continue;
    items_.push_back({.source = &tensor, .spec = spec_of(tensor)});
    specs_.push_back(items_.back().spec);
  }
  for (const int64_t size : checked_spec_sizes(specs_)) {
    largest = std::max(largest, size);
    report_.size_bytes += size;
  }
  report_.tensors = std::ssize(items_);
  buffer_ = std::make_unique_for_overwrite<std::byte[]>(static_cast<size_t>(largest));
}

std::span<const std::byte> Converter::bytes_of(size_t index) {
  const Item& item = items_.at(index);
  const auto size = static_cast<size_t>(*byte_size(item.spec.dtype, item.spec.shape));
  options_.progress(done_, report_.size_bytes);
  done_ += static_cast<int64_t>(size);
  const std::span out(buffer_.get(), size);
  const int64_t overflows = in_.read(*item.source, item.spec.dtype, out);
  if (overflows > 0) {
    user_error(
        "{}: {} numbers of {} do not fit {}; use fp32{}", in_.name(), overflows,
        printable(item.source->name), dtype_name(item.spec.dtype),
        item.spec.dtype == DType::f16 && options_.target != Target::kRwkvCpp ? " or bf16" : "");
  }
  if (options_.target == Target::kRwkvCpp && item.source->name.ends_with(".time_decay")) {
    // The buffer is aligned for any type, and the spec says fp32.
    to_rwkv_cpp_decay({reinterpret_cast<float*>(out.data()), size / sizeof(float)});
  }
  return out;
}

void Converter::write(const fs::path& out) {
  const TensorBytes bytes = [this](size_t index) { return bytes_of(index); };
  switch (options_.target) {
    case Target::kPth:
      write_pth(out, specs_, bytes);
      return;
    case Target::kSafetensors:
      write_safetensors(out, specs_, bytes);
      return;
    case Target::kRwkvCpp:
      write_rwkv_cpp(out,
                     {.vocab_size = layout_.vocab_size,
                      .n_embd = layout_.n_embd,
                      .n_layer = layout_.n_layer,
                      .dtype = matrix_dtype()},
                     specs_, bytes);
      return;
    case Target::kHuggingFace: {
      HuggingFaceOptions config = options_.hugging_face;
      config.dtype = specs_.front().dtype;
      const auto is_first = [&](const TensorSpec& spec) { return spec.dtype == config.dtype; };
      if (!std::all_of(specs_.begin(), specs_.end(), is_first)) config.dtype = DType::f32;
      HuggingFaceFolder folder(out, options_.force);
      folder.write_weights(specs_, bytes, options_.shard_bytes);
      folder.write_text("config.json", huggingface_config(layout_, config));
      folder.write_text("generation_config.json", huggingface_generation_config(config));
      for (const fs::path& file : options_.tokenizer) folder.copy_tokenizer(file);
      folder.commit();
      return;
    }
  }
}

/// Whether `inner` is `outer` or lies in it.
bool lies_in(const fs::path& inner, const fs::path& outer) {
  std::error_code failed;
  const fs::path a = fs::weakly_canonical(inner, failed);
  const fs::path b = fs::weakly_canonical(outer, failed);
  return std::mismatch(b.begin(), b.end(), a.begin(), a.end()).first == b.end();
}

void check_output(const TensorFile& in, const fs::path& out, const ConvertOptions& options) {
  std::error_code failed;
  for (const MappedFile& file : in.files()) {
    if (lies_in(file.path(), out) || fs::equivalent(file.path(), out, failed)) {
      user_error("{}: is (or contains) the input {}; choose another name", name_of(out),
                 name_of(file.path()));
    }
  }
  if (fs::exists(fs::symlink_status(out, failed)) && !options.force) {
    user_error("{} exists; choose another name, or overwrite it with --force", name_of(out));
  }
  const bool folder = fs::is_directory(out, failed);
  if (folder && options.target != Target::kHuggingFace) {
    user_error("{} is a folder; name a file", name_of(out));
  }
  if (fs::exists(out, failed) && !folder && options.target == Target::kHuggingFace) {
    user_error("{} is a file; name a folder", name_of(out));
  }
  const fs::path parent = out.has_parent_path() ? out.parent_path() : fs::path(".");
  if (!fs::is_directory(parent, failed)) {
    user_error("there is no folder {}; make it first", name_of(parent));
  }
}

}  // namespace

ConvertReport convert(const TensorFile& in, const fs::path& out, const ConvertOptions& options) {
  const bool rwkv_cpp = options.target == Target::kRwkvCpp;
  if (rwkv_cpp && options.dtype && *options.dtype == DType::bf16) {
    user_error("--dtype: rwkv.cpp has no bf16; use fp32 or fp16");
  }
  if (options.target != Target::kHuggingFace && !options.tokenizer.empty()) {
    user_error("--tokenizer: only --to hf has room for it; leave it out");
  }
  check_output(in, out, options);
  return Converter(in, options).run(out);
}

DType parse_weight_dtype(std::string_view word, std::string_view option) {
  if (word == "fp32") return DType::f32;
  if (word == "fp16") return DType::f16;
  if (word == "bf16") return DType::bf16;
  user_error("{}: there is no type '{}'; use fp32, fp16 or bf16", option, printable(word, 40));
}

}  // namespace rwkv::formats
