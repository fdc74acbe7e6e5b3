#include "trainer/model_source.h"

#include <spdlog/spdlog.h>

#include "data/base/error.h"
#include "data/tokenizers/open_vocabulary.h"
#include "model/factory.h"
#include "model/formats/huggingface.h"
#include "model/formats/tensor_file.h"
#include "model/inference/rwkv4_inference.h"
#include "model/weights.h"
#include "trainer/checkpoint.h"
#include "trainer/config.h"
#include "trainer/terminal_progress.h"

namespace rwkv::trainer {
namespace {

namespace fs = std::filesystem;

std::shared_ptr<const data::Vocabulary> find_vocabulary(const fs::path& weights, int64_t vocab_size,
                                                        const std::string& vocab_file) {
  std::string file = vocab_file;
  if (file.empty()) {
    if (const auto beside = vocabulary_beside(weights)) {
      file = beside->string();
    } else if (vocab_size == 256) {
      file = "bytes";
    } else {
      return nullptr;
    }
  }
  std::shared_ptr<const data::Vocabulary> vocabulary;
  try {
    vocabulary = data::open_vocabulary(file);
  } catch (const UserError& error) {
    if (!vocab_file.empty()) throw;
    // Weights can be used without the tokenizer that happens to lie beside them.
    spdlog::warn("the tokenizer beside the weights cannot be used: {}", error.what());
    return nullptr;
  }
  const int64_t size = vocabulary->size();
  if (size != vocab_size && !(vocabulary->may_be_padded() && size < vocab_size)) {
    user_error(
        "{} has {} tokens, the model in {} has vocab_size {}; name the vocabulary that it was "
        "trained with",
        printable(file), size, printable(weights.string()), vocab_size);
  }
  return vocabulary;
}

}  // namespace

std::optional<fs::path> vocabulary_beside(const fs::path& weights) {
  const fs::path folder = fs::is_directory(weights) ? weights : weights.parent_path();
  // Hugging Face folders may hold a vocab.json of another kind beside their tokenizer.json.
  for (const char* name : {"tokenizer.json", "20B_tokenizer.json", "rwkv_vocab.txt",
                           "rwkv_vocab_v20230424.txt", "vocab.json"}) {
    std::error_code ignored;
    if (fs::exists(folder / name, ignored)) return folder / name;
  }
  return std::nullopt;
}

model::HeadQkReduce stored_head_qk_reduce(const fs::path& weights) {
  const fs::path checkpoint = weights.parent_path();
  if (!is_checkpoint(checkpoint)) return model::HeadQkReduce::kSum;
  const std::string yaml = read_checkpoint_state(checkpoint).config_yaml;
  return parse_run_config(yaml, "config.yaml of the checkpoint").model.head_qk_reduce;
}

fs::path find_weights(const fs::path& path, std::string_view option) {
  const std::string name = printable(path.string());
  std::error_code ignored;
  if (!fs::exists(path, ignored)) user_error("{}: there is no {}; check the path", option, name);
  if (!fs::is_directory(path, ignored)) return path;
  if (fs::exists(path / "manifest.json", ignored)) {
    const std::string damage = checkpoint_damage(path);
    if (!damage.empty()) {
      user_error("{}: {} is damaged: {}; use another checkpoint", option, name, damage);
    }
    return path / "model.safetensors";
  }
  if (formats::is_huggingface_folder(path)) return path;
  const auto newest = CheckpointStore(path).newest_valid(/*damaged_is_error=*/true);
  if (!newest) {
    user_error(
        "{}: {} holds no checkpoint; name a run's folder, a checkpoint (step-N), a Hugging Face "
        "folder or a weight file",
        option, name);
  }
  return *newest / "model.safetensors";
}

namespace {

std::shared_ptr<model::LanguageModel> load(formats::TensorFile file, const fs::path& weights,
                                           const std::string& strategy) {
  const auto progress = [](int64_t done, int64_t all) { show_bytes("loading", done, all); };
  const auto reduce = file.find("head_q.weight") == nullptr ? model::HeadQkReduce::kSum
                                                            : stored_head_qk_reduce(weights);
  if (model::can_run_inference(file)) {
    return model::load_inference_model(std::move(file), {strategy, reduce, {}}, progress);
  }
  model::ModelConfig config = model::config_of(file);
  if (strategy != model::kDefaultStrategy) {
    user_error("--strategy: '{}' is for plain RWKV-4, which {} is not; leave the option away",
               printable(strategy), file.name());
  }
  config.head_qk_reduce = reduce;
  auto loaded = model::build_model(config);
  model::load_weights(*loaded, file, progress);
  loaded->eval();
  return loaded;
}

}  // namespace

ModelSource open_model(const fs::path& path, const std::string& vocab_file,
                       const std::string& strategy) {
  ModelSource source;
  source.weights = find_weights(path);
  source.model = load(formats::open_tensor_file(source.weights), source.weights, strategy);
  source.vocabulary =
      find_vocabulary(source.weights, source.model->config().vocab_size, vocab_file);
  return source;
}

}  // namespace rwkv::trainer
