#pragma once

#include <filesystem>
#include <memory>

#include "model/language_model.h"

namespace rwkv::model {

/// The model in a weight file or Hugging Face folder of any format that
/// formats::open_tensor_file() reads, ready to run: architecture and sizes are read off the
/// tensors, weights are converted to float32 one by one, so memory is that of the model and of one
/// tensor. Head-QK sums: no weight file says head_qk_reduce. Throws UserError (data/base/error.h),
/// whose one line names the file, what is wrong with it and how to mend that.
///
///   const auto model = rwkv::model::load_model("rwkv-1400.pth");
///   rwkv::model::State state;                            // the start of a text
///   const at::Tensor logits = model->forward(ids, state);  // [B,T,V]; state: after the last token
std::shared_ptr<LanguageModel> load_model(const std::filesystem::path& file);

}  // namespace rwkv::model
