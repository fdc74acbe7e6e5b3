#include "trainer/batch.h"

#include <torch/torch.h>

#include <span>

#include "data/batch_loader.h"
#include "data/loss_mask.h"

namespace rwkv::trainer {
namespace {

template <typename T>
std::span<T> span_of(const at::Tensor& tensor) {
  return {tensor.mutable_data_ptr<T>(), static_cast<size_t>(tensor.numel())};
}

}  // namespace

Batch training_batch(const Dataset& data, uint64_t first_ordinal, int64_t rows, int64_t ctx_len,
                     at::Device device) {
  RECORD_USER_SCOPE("rwkv::data");
  Batch batch;
  batch.inputs = at::empty({rows, ctx_len}, at::kLong);
  batch.targets = at::empty_like(batch.inputs);
  const auto inputs = span_of<int64_t>(batch.inputs);
  const auto targets = span_of<int64_t>(batch.targets);
  if (data.qa_mixture) {
    batch.mask = at::empty({rows, ctx_len}, at::kFloat);
    data.qa_mixture->fill_batch(first_ordinal, rows, inputs, targets, span_of<float>(batch.mask),
                                data.vocab_size);
    batch.mask = batch.mask.to(device);
  } else {
    data::fill_batch(*data.train, *data.sampler, first_ordinal, rows, ctx_len, inputs, targets,
                     data.vocab_size);
    if (data.loss_mask) {
      batch.mask = at::empty({rows, ctx_len}, at::kFloat);
      data::fill_loss_mask(*data.loss_mask, *data.sampler, first_ordinal, rows, ctx_len,
                           span_of<float>(batch.mask));
      batch.mask = batch.mask.to(device);
    }
  }
  batch.inputs = batch.inputs.to(device);
  batch.targets = batch.targets.to(device);
  return batch;
}

}  // namespace rwkv::trainer
