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

/// How Head-QK was trained cannot be read off the weights; a checkpoint says it in its config.yaml.
model::HeadQkReduce stored_head_qk_reduce(const fs::path& weights) {
  const fs::path checkpoint = weights.parent_path();
  const bool is_checkpoint =
      fs::exists(checkpoint / "manifest.json") && fs::exists(checkpoint / "config.yaml");
  if (!is_checkpoint) return model::HeadQkReduce::kSum;
  const std::string yaml = read_checkpoint_state(checkpoint).config_yaml;
  return parse_run_config(yaml, "config.yaml of the checkpoint").model.head_qk_reduce;
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
  const model::Tensors tensors = model::read_tensors(source.weights);
  const std::string where = printable(source.weights.string());
  model::ModelConfig config = model::config_from_shapes(model::shapes_of(tensors), where);
  if (config.head_qk > 0) config.head_qk_reduce = stored_head_qk_reduce(source.weights);
  source.model = model::build_model(config);
  model::load_weights(*source.model, tensors, where);
  source.model->eval();
  source.vocabulary =
      find_vocabulary(source.weights, source.model->config().vocab_size, vocab_file);
  return source;
}

}  // namespace rwkv::trainer
