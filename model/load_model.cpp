#include "model/load_model.h"

#include "data/base/error.h"
#include "model/factory.h"
#include "model/weights.h"

namespace rwkv::model {

std::shared_ptr<LanguageModel> load_model(const std::filesystem::path& file) {
  const Tensors tensors = read_tensors(file);
  const std::string where = printable(file.string());
  auto model = build_model(config_from_shapes(shapes_of(tensors), where));
  load_weights(*model, tensors, where);
  model->eval();
  return model;
}

}  // namespace rwkv::model
