#include "trainer/dataset.h"

#include <fmt/format.h>

#include <cmath>
#include <filesystem>
#include <numbers>
#include <vector>

#include "data/base/error.h"
#include "data/loss_mask.h"
#include "data/text_dataset.h"

namespace rwkv::trainer {
namespace {

namespace fs = std::filesystem;
using Source = std::shared_ptr<const data::TokenSource>;

data::SourceSpec spec_of(const DataConfig& config, const std::string& path) {
  data::SourceSpec spec;
  spec.path = path;
  spec.kind = data::parse_source_kind(name_of(kDataKindNames, config.kind), "data.kind");
  spec.dtype = config.dtype;
  // A vocabulary that does not exist yet is made from the text and written below.
  if (!config.vocab_file.empty() && fs::exists(config.vocab_file))
    spec.vocab_file = config.vocab_file;
  return spec;
}

struct Split {
  Source train;
  Source validation;
};

/// Where the parts of a file end; validation begins where training ends.
struct Cut {
  int64_t train_end = 0;
  int64_t validation_end = 0;
  bool validates = false;
};

/// The first part trains, what follows validates (train_tokens or train_bytes), or the tail
/// validates.
Cut cut_of(const Source& all, const RunConfig& config) {
  const DataConfig& d = config.data;
  const ValidationConfig& v = config.validation;
  const int64_t size = all->size();
  int64_t train_end = size;
  int64_t validation_end = size;
  if (d.train_tokens > 0) train_end = d.train_tokens;
  if (d.train_bytes > 0) train_end = all->token_at_byte(d.train_bytes);
  if (v.tokens > 0) validation_end = train_end + v.tokens;
  if (v.bytes > 0) validation_end = all->token_at_byte(d.train_bytes + v.bytes);
  const int64_t tail = v.tail_tokens > 0
                           ? v.tail_tokens
                           : static_cast<int64_t>(std::llround(v.tail * static_cast<double>(size)));
  if (tail > 0) train_end = size - tail;
  if (train_end <= 0 || train_end > size || validation_end > size) {
    user_error(
        "data.path: {} has {} tokens, too few for the parts that train ({}) and validate ({}) in "
        "the "
        "configuration; lower data.train_* or validation.*",
        all->name(), size, train_end, tail > 0 ? tail : validation_end - train_end);
  }
  return {.train_end = train_end,
          .validation_end = tail > 0 ? size : validation_end,
          .validates = v.tokens > 0 || v.bytes > 0 || tail > 0};
}

Split split(const Source& all, const Cut& cut) {
  Split parts;
  parts.train = cut.train_end == all->size() ? all : Source(data::slice(all, 0, cut.train_end));
  if (cut.validates) parts.validation = data::slice(all, cut.train_end, cut.validation_end);
  return parts;
}

/// Masks are cut as their texts are, and are part of what a run is trained on.
void open_loss_masks(const RunConfig& config, const data::TokenSource& all, const Cut& cut,
                     Dataset& set) {
  if (!config.data.loss_mask.empty()) {
    const Source mask = data::open_loss_mask(config.data.loss_mask, all, "data.loss_mask");
    const Split parts = split(mask, cut);
    set.loss_mask = parts.train;
    set.validation_loss_mask = parts.validation;
    set.fingerprint = fmt::format("{}+{}", set.fingerprint, mask->fingerprint());
  }
  if (!config.validation.loss_mask.empty()) {
    set.validation_loss_mask =
        data::open_loss_mask(config.validation.loss_mask, *set.validation, "validation.loss_mask");
  } else if (!config.validation.path.empty()) {
    set.validation_loss_mask = nullptr;
  }
  // The learned tokens may be longer or shorter than the average; only bytes are always one byte.
  if (set.loss_mask && set.train_bytes_per_token != 1.0) set.train_bytes_per_token.reset();
  if (set.validation_loss_mask && set.validation_bytes_per_token != 1.0) {
    set.validation_bytes_per_token.reset();
  }
}

/// Bytes of UTF-8 behind the tokens of a character source, on average.
double utf8_bytes_per_token(const data::TokenSource& source, const data::CharVocab& vocab) {
  std::vector<int64_t> length;
  for (const char32_t c : vocab.characters()) {
    std::string text;
    data::append_utf8(text, c);
    length.push_back(std::ssize(text));
  }
  constexpr int64_t kChunk = 1 << 16;
  std::vector<int64_t> ids(kChunk);
  int64_t bytes = 0;
  for (int64_t at = 0; at < source.size(); at += kChunk) {
    const auto chunk =
        std::span(ids).first(static_cast<size_t>(std::min(kChunk, source.size() - at)));
    source.read(at, chunk);
    for (const int64_t id : chunk) bytes += length[static_cast<size_t>(id)];
  }
  return static_cast<double>(bytes) / static_cast<double>(source.size());
}

/// Writes the characters' vocab.json where the configuration names one that does not exist, and
/// where another file (to validate on, or the general text of a mixture) must be read with the same
/// ids.
std::string store_vocabulary(const RunConfig& config, const data::CharVocab& vocab) {
  if (!config.data.vocab_file.empty()) {
    if (!fs::exists(config.data.vocab_file)) {
      vocab.save(config.data.vocab_file, data::TextEncoding::kUtf8);
    }
    return config.data.vocab_file;
  }
  if (config.validation.path.empty() && config.data.qa_mask == 0) return {};
  const fs::path file = fs::path(config.train.out_dir) / "vocab.json";
  vocab.save(file, data::TextEncoding::kUtf8);
  return file.string();
}

data::SamplerConfig sampler_config(const RunConfig& config) {
  const DataConfig& d = config.data;
  data::SamplerConfig sampler;
  sampler.kind = d.sampler;
  sampler.magic_prime = d.magic_prime;
  sampler.factor = d.factor;
  sampler.step_bias = d.step_bias;
  sampler.shift = d.shift;
  sampler.random_steps = d.random_steps;
  sampler.seed = static_cast<uint64_t>(config.train.seed);
  return sampler;
}

/// The general text that data.qa_mask mixes in; `all` is the text of the questions.
Source open_general_text(const RunConfig& config, const data::TokenSource& all,
                         const std::string& vocab_file) {
  data::SourceSpec spec = spec_of(config.data, config.data.general_path);
  if (!vocab_file.empty()) spec.vocab_file = vocab_file;
  Source general = data::open_tokens(spec);
  const int64_t least = config.train.ctx_len + 2;
  if (general->size() < least) {
    user_error(
        "data.general_path: {} has {} tokens, too few for windows of train.ctx_len {}; use a "
        "longer text or a shorter ctx_len",
        general->name(), general->size(), config.train.ctx_len);
  }
  if (general->vocab_size() > all.vocab_size() && all.vocab_size() > 0) {
    user_error("data.general_path: {} has a vocabulary of {}, {} one of {}; use files of one kind",
               general->name(), general->vocab_size(), all.name(), all.vocab_size());
  }
  return general;
}

int64_t choose_vocab_size(const RunConfig& config, const data::TokenSource& source) {
  const int64_t configured = config.model.vocab_size;
  const int64_t found = source.vocab_size();
  if (configured == 0 && found == 0) {
    user_error(
        "model.vocab_size: {} does not say how many tokens there are; set it to the tokenizer's "
        "size "
        "(50277 for the Pile)",
        source.name());
  }
  if (configured > 0 && found > configured) {
    user_error("model.vocab_size: {} is less than the {} tokens of {}; set it to 0 or to {}",
               configured, found, source.name(), found);
  }
  return configured > 0 ? configured : found;
}

}  // namespace

Dataset open_dataset(const RunConfig& config) {
  const DataConfig& d = config.data;
  const Source all = data::open_tokens(spec_of(d, d.path));
  const Cut cut = cut_of(all, config);
  const Split parts = split(all, cut);
  data::check_tail_allowed(d.magic_prime, parts.validation ? parts.validation->size() : 0,
                           "data.magic_prime");
  Dataset set;
  set.train = parts.train;
  set.validation = parts.validation;
  set.fingerprint = all->fingerprint();
  set.vocab_size = choose_vocab_size(config, *all);
  const data::CharVocab* characters = all->vocab();
  if (characters != nullptr && set.vocab_size != all->vocab_size()) {
    user_error(
        "model.vocab_size: {}, but {} has {} characters; leave it out, or set data.vocab_file to "
        "the "
        "vocab.json that the model was trained with",
        set.vocab_size, all->name(), all->vocab_size());
  }
  const std::string vocab_file = characters != nullptr ? store_vocabulary(config, *characters) : "";
  if (!config.validation.path.empty()) {
    data::SourceSpec spec = spec_of(d, config.validation.path);
    if (!vocab_file.empty()) spec.vocab_file = vocab_file;
    set.validation = data::open_tokens(spec);
  }
  if (characters != nullptr) {
    set.vocabulary = data::character_vocabulary(*characters);
    set.tokens_are_characters = true;
    set.train_bytes_per_token = utf8_bytes_per_token(*set.train, *characters);
    if (set.validation) {
      set.validation_bytes_per_token = utf8_bytes_per_token(*set.validation, *characters);
    }
  } else if (all->vocab_size() == 256 && set.vocab_size == 256) {
    set.vocabulary = data::byte_vocabulary();
    set.train_bytes_per_token = 1.0;
    set.validation_bytes_per_token = 1.0;
  }
  open_loss_masks(config, *all, cut, set);
  const int64_t least = config.train.ctx_len + 2;
  if (set.train->size() < least || (set.validation && set.validation->size() < least)) {
    user_error(
        "train.ctx_len: {} tokens to train on and {} to validate on are too few for windows of {}; "
        "use a "
        "longer text or a shorter ctx_len",
        set.train->size(), set.validation ? set.validation->size() : 0, config.train.ctx_len);
  }
  set.sampler = std::make_unique<data::Sampler>(sampler_config(config), set.train->size(),
                                                config.train.ctx_len, "data: " + all->name());
  if (d.qa_mask > 0) {
    set.general = open_general_text(config, *all, vocab_file);
    set.fingerprint = fmt::format("{}+{}", set.fingerprint, set.general->fingerprint());
    set.qa_mixture = std::make_unique<data::QaMixture>(
        set.train, *set.sampler, set.general, config.train.ctx_len,
        /*answers_only=*/d.qa_mask == 1, static_cast<uint64_t>(config.train.seed));
  }
  return set;
}

std::optional<double> bits_per_byte(double nats_per_token, std::optional<double> bytes_per_token) {
  if (!bytes_per_token) return std::nullopt;
  return nats_per_token / (std::numbers::ln2 * *bytes_per_token);
}

}  // namespace rwkv::trainer
