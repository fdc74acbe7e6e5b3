#include "model/load_model.h"

#include "model/factory.h"
#include "model/formats/tensor_file.h"
#include "model/weights.h"

namespace rwkv::model {

std::shared_ptr<LanguageModel> load_model(const std::filesystem::path& file) {
  const formats::TensorFile tensors = formats::open_tensor_file(file);
  auto model = build_model(config_of(tensors));
  load_weights(*model, tensors);
  model->eval();
  return model;
}

}  // namespace rwkv::model
