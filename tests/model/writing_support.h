#pragma once

#include <torch/torch.h>
#include <unistd.h>

#include <filesystem>
#include <memory>
#include <string>

#include "data/vocabulary.h"
#include "model/factory.h"
#include "model/language_model.h"

namespace rwkv::model {

/// A small byte model whose every parameter matters.
inline std::shared_ptr<LanguageModel> random_byte_model(ModelConfig config = {},
                                                        uint64_t seed = 7) {
  config.n_layer = 2;
  config.n_embd = 32;
  config.vocab_size = 256;
  auto model = build_model(config);
  at::Generator generator = at::detail::createCPUGenerator(seed);
  const torch::NoGradGuard no_grad;
  for (auto& parameter : model->parameters()) parameter.normal_(0.1, 0.3, generator);
  model->eval();
  return model;
}

/// A vocabulary of the given texts, one a token; encodes by the longest text that fits.
class ListVocabulary final : public data::Vocabulary {
 public:
  explicit ListVocabulary(std::vector<std::string> texts) : texts_(std::move(texts)) {}
  [[nodiscard]] int64_t size() const override { return std::ssize(texts_); }
  [[nodiscard]] std::vector<int64_t> encode(std::string_view text) const override {
    std::vector<int64_t> ids;
    while (!text.empty()) {
      size_t best = texts_.size();
      for (size_t i = 0; i < texts_.size(); ++i) {
        const bool longer = best == texts_.size() || texts_[i].size() > texts_[best].size();
        if (!texts_[i].empty() && text.starts_with(texts_[i]) && longer) best = i;
      }
      if (best == texts_.size()) {
        text.remove_prefix(1);
        continue;
      }
      ids.push_back(static_cast<int64_t>(best));
      text.remove_prefix(texts_[best].size());
    }
    return ids;
  }
  [[nodiscard]] std::string decode(std::span<const int64_t> ids) const override {
    std::string text;
    for (const int64_t id : ids) text += texts_.at(static_cast<size_t>(id));
    return text;
  }

  [[nodiscard]] std::optional<int64_t> end_of_text() const override {
    return texts_[0].empty() ? std::optional<int64_t>(0) : std::nullopt;
  }

 private:
  std::vector<std::string> texts_;
};

/// Draws the tokens of a script one after the other, whatever it is fed: all others have no chance.
class ScriptedModel final : public LanguageModel {
 public:
  ScriptedModel(int64_t vocab_size, std::vector<int64_t> script) : script_(std::move(script)) {
    config_.vocab_size = vocab_size;
    register_parameter("unused", at::zeros({1}));
  }
  /// The state counts the tokens fed after the first forward pass, which takes the prompt.
  at::Tensor forward(const at::Tensor& ids, State* state, Positions /*positions*/) override {
    const at::Tensor before = state->get("place");
    const int64_t place = before.defined() ? before.item<int64_t>() + ids.size(1) : 0;
    state->set("place", at::full({1, 1}, place, at::kLong));
    at::Tensor logits = at::full({1, 1, config_.vocab_size}, -1e4F);
    if (place < std::ssize(script_)) logits[0][0][script_[static_cast<size_t>(place)]] = 0;
    return logits;
  }
  [[nodiscard]] const ModelConfig& config() const override { return config_; }

 private:
  ModelConfig config_;
  std::vector<int64_t> script_;
};

/// A folder for the files of one test.
class TemporaryFolder {
 public:
  TemporaryFolder()
      : path_(std::filesystem::temp_directory_path() /
              ("rwkv_writing_" + std::to_string(::getpid()))) {
    std::filesystem::create_directories(path_);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  ~TemporaryFolder() { std::filesystem::remove_all(path_); }
  [[nodiscard]] std::filesystem::path operator/(const std::string& name) const {
    return path_ / name;
  }

 private:
  std::filesystem::path path_;
};

}  // namespace rwkv::model
