#include "model/factory.h"

#include <array>

#include "data/base/error.h"
#include "model/rwkv4.h"

namespace rwkv::model {
namespace {

template <typename Model>
std::shared_ptr<LanguageModel> build(const ModelConfig& config) {
  return std::make_shared<Model>(config);
}

constexpr std::array kArchitectures{
    Architecture{"rwkv4", build<Rwkv4>},
};

}  // namespace

std::span<const Architecture> architectures() { return kArchitectures; }

std::shared_ptr<LanguageModel> build_model(const ModelConfig& config) {
  for (const Architecture& architecture : kArchitectures) {
    if (architecture.name == config.arch) return architecture.build(config);
  }
  user_error("model.arch: there is no architecture '{}'; use rwkv4", printable(config.arch));
}

}  // namespace rwkv::model
