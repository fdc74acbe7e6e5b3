#include "model/sentence_embedding.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include "data/base/error.h"
#include "model/generate.h"
#include "tests/model/writing_support.h"

namespace rwkv::model {
namespace {

at::Tensor embedding_of(LanguageModel& model, std::string_view text,
                        const EmbeddingConfig& config) {
  Context context;
  feed(model, data::byte_vocabulary()->encode(text), context);
  return sentence_embedding(context.state, model.config(), config);
}

TEST(SentenceEmbedding, HoldsTheRowsOfEachLayerInOrder) {
  const auto model = random_byte_model();
  State state;
  prefill(*model, data::byte_vocabulary()->encode("some text"), state);
  const at::Tensor rows = sentence_embedding(state, model->config(), {}).view({2, 3, 32});
  EXPECT_TRUE(at::equal(rows[1][0], state.get("blocks.1.att.xx")[0]));
  EXPECT_TRUE(at::allclose(rows[1][1] * state.get("blocks.1.att.bb")[0],
                           state.get("blocks.1.att.aa")[0], 1e-5, 1e-5));
  EXPECT_TRUE(at::equal(rows[0][2], state.get("blocks.0.ffn.xx")[0]));
  const at::Tensor chosen =
      sentence_embedding(state, model->config(), {.rows = {EmbeddingRow::kFfnX}, .layers = {1}});
  EXPECT_TRUE(at::equal(chosen, rows[1][2]));
}

TEST(SentenceEmbedding, OfNothingIsZero) {
  const auto model = random_byte_model();
  const at::Tensor zero = embedding_of(*model, "", {});
  EXPECT_EQ(zero.numel(), 2 * 3 * 32);
  EXPECT_EQ(zero.abs().max().item<float>(), 0);
}

TEST(SentenceEmbedding, TakesTheWidthsOfTheModel) {
  ModelConfig config;
  config.dim_att = 48;
  config.pre_ffn = true;
  const auto model = random_byte_model(config);
  EXPECT_EQ(embedding_of(*model, "abc", {}).numel(), 2 * (32 + 48 + 32));
}

TEST(SentenceEmbedding, RefusesLayersThatAreNotThere) {
  const auto model = random_byte_model();
  EXPECT_THROW(embedding_of(*model, "abc", {.layers = {2}}), UserError);
}

TEST(SentenceEmbedding, NormalisesByFixedStatistics) {
  const at::Tensor vectors = torch::tensor({{1.0F, 5.0F}, {3.0F, 5.0F}});
  const ChannelStatistics statistics = channel_statistics(vectors);
  EXPECT_TRUE(
      at::equal(normalised(vectors, statistics), torch::tensor({{-1.0F, 0.0F}, {1.0F, 0.0F}})));
  EXPECT_TRUE(at::equal(normalised(torch::tensor({{4.0F, 9.0F}}), statistics),
                        torch::tensor({{2.0F, 0.0F}})));
  const TemporaryFolder folder;
  save_statistics(statistics, folder / "norm.safetensors");
  EXPECT_TRUE(at::equal(load_statistics(folder / "norm.safetensors").std, statistics.std));
  EXPECT_THROW(normalised(at::zeros({1, 3}), statistics), UserError);
}

}  // namespace
}  // namespace rwkv::model
