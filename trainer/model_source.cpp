#include "trainer/model_source.h"

#include "data/base/error.h"
#include "model/load_model.h"
#include "trainer/checkpoint.h"

namespace rwkv::trainer {
namespace {

namespace fs = std::filesystem;

std::shared_ptr<const data::Vocabulary> find_vocabulary(const fs::path& weights, int64_t vocab_size,
                                                        const std::string& vocab_file) {
  const fs::path beside = weights.parent_path() / "vocab.json";
  std::shared_ptr<const data::Vocabulary> vocabulary;
  if (!vocab_file.empty()) {
    vocabulary = data::open_character_vocabulary(vocab_file);
  } else if (fs::exists(beside)) {
    vocabulary = data::open_character_vocabulary(beside);
  } else if (vocab_size == 256) {
    vocabulary = data::byte_vocabulary();
  }
  if (vocabulary && vocabulary->size() != vocab_size) {
    user_error(
        "{} has {} characters, the model in {} has vocab_size {}; name the vocabulary that it was "
        "trained "
        "with",
        printable(vocab_file.empty() ? beside.string() : vocab_file), vocabulary->size(),
        printable(weights.string()), vocab_size);
  }
  return vocabulary;
}

}  // namespace

fs::path find_weights(const fs::path& path) {
  const std::string name = printable(path.string());
  std::error_code ignored;
  if (!fs::exists(path, ignored)) user_error("--model: there is no {}; check the path", name);
  if (!fs::is_directory(path, ignored)) return path;
  if (fs::exists(path / "manifest.json")) {
    const std::string damage = checkpoint_damage(path);
    if (!damage.empty())
      user_error("--model: {} is damaged: {}; use another checkpoint", name, damage);
    return path / "model.safetensors";
  }
  const auto newest = CheckpointStore(path).newest_valid(/*damaged_is_error=*/true);
  if (!newest) {
    user_error(
        "--model: {} holds no checkpoint; name a run's folder, a checkpoint (step-N), a .pth or a "
        ".safetensors file",
        name);
  }
  return *newest / "model.safetensors";
}

ModelSource open_model(const fs::path& path, const std::string& vocab_file) {
  ModelSource source;
  source.weights = find_weights(path);
  source.model = model::load_model(source.weights);
  source.vocabulary =
      find_vocabulary(source.weights, source.model->config().vocab_size, vocab_file);
  return source;
}

}  // namespace rwkv::trainer
