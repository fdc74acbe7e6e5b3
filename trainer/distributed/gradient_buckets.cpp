#include "trainer/distributed/gradient_buckets.h"

#include <torch/torch.h>

#include <chrono>
#include <cmath>
#include <memory>
#include <utility>

namespace rwkv::trainer {

/// Called by autograd as soon as a parameter's gradient is complete.
class GradientBuckets::Hook : public torch::autograd::PostAccumulateGradHook {
 public:
  Hook(GradientBuckets& buckets, size_t i) : buckets_(buckets), i_(i) {}
  void operator()(const at::Tensor& /*parameter*/) override { buckets_.on_gradient(i_); }

 private:
  GradientBuckets& buckets_;
  size_t i_;
};

GradientBuckets::GradientBuckets(RankGroup& group, std::vector<at::Tensor> parameters,
                                 const BucketOptions& options)
    : group_(group),
      parameters_(std::move(parameters)),
      options_(options),
      places_(parameters_.size()),
      filled_(parameters_.size(), false) {
  std::vector<int64_t> sizes;
  for (const at::Tensor& p : parameters_) sizes.push_back(p.requires_grad() ? p.numel() : 0);
  const int64_t bucket_size =
      std::max<int64_t>(1, options.bucket_bytes / static_cast<int64_t>(sizeof(float)));
  layout_ = lay_out_buckets(sizes, bucket_size, group.world_size());
  for (size_t b = 0; b < layout_.size(); ++b) {
    const auto device = parameters_[layout_[b].slots.front().parameter].device();
    const auto float_options = at::TensorOptions(device).dtype(at::kFloat);
    Flat flat;
    flat.sums = at::zeros({layout_[b].size}, float_options);
    if (options.sharded)
      flat.shard = at::zeros({layout_[b].size / group.world_size()}, float_options);
    flats_.push_back(std::move(flat));
    for (const BucketSlot& slot : layout_[b].slots) {
      places_[slot.parameter] = {b, slot};
      torch::autograd::impl::set_post_acc_grad_hooks(parameters_[slot.parameter],
                                                     std::make_unique<Hook>(*this, slot.parameter));
    }
  }
}

GradientBuckets::~GradientBuckets() {
  for (const at::Tensor& parameter : parameters_) {
    if (parameter.requires_grad()) {
      torch::autograd::impl::set_post_acc_grad_hooks(parameter, nullptr);
    }
  }
}

void GradientBuckets::before_backward(bool last) {
  last_ = last;
  next_to_send_ = 0;
  for (size_t b = 0; b < layout_.size(); ++b) flats_[b].missing = std::ssize(layout_[b].slots);
}

void GradientBuckets::on_gradient(size_t i) {
  const torch::NoGradGuard no_grad;
  const auto& [b, slot] = places_[i];
  Flat& flat = flats_[b];
  TORCH_CHECK(flat.missing > 0, "GradientBuckets: a parameter of bucket ", b,
              " got a second gradient in one backward pass");
  const at::Tensor& gradient = parameters_[i].grad();
  const at::Tensor place = flat.sums.narrow(0, slot.begin, slot.size).view(gradient.sizes());
  if (filled_[i]) {
    place.add_(gradient);
  } else {
    place.copy_(gradient);
  }
  filled_[i] = true;
  parameters_[i].mutable_grad().reset();
  --flat.missing;
  if (last_) send_full_buckets();
}

void GradientBuckets::send_full_buckets() {
  while (next_to_send_ < flats_.size() && flats_[next_to_send_].missing == 0) {
    send(next_to_send_++);
  }
}

void GradientBuckets::send(size_t bucket) {
  Flat& flat = flats_[bucket];
  flat.sent = options_.reduce_in == at::kFloat ? flat.sums : flat.sums.to(options_.reduce_in);
  if (options_.sharded) {
    flat.received =
        options_.reduce_in == at::kFloat ? flat.shard : flat.shard.to(options_.reduce_in);
    flat.pending = group_.reduce_scatter(flat.received, flat.sent);
  } else {
    flat.pending = group_.all_reduce(flat.sent);
  }
}

void GradientBuckets::finish() {
  RECORD_USER_SCOPE("rwkv::wait_for_ranks");
  const torch::NoGradGuard no_grad;
  const auto start = std::chrono::steady_clock::now();
  // Parameters that the loss does not depend on send zeros.
  while (next_to_send_ < flats_.size()) send(next_to_send_++);
  for (Flat& flat : flats_) {
    group_.wait(flat.pending);
    if (options_.reduce_in != at::kFloat) {
      options_.sharded ? flat.shard.copy_(flat.received) : flat.sums.copy_(flat.sent);
    }
    flat.pending.reset();
    flat.sent.reset();
    flat.received.reset();
  }
  waited_s_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

void GradientBuckets::clear() {
  for (size_t i = 0; i < parameters_.size(); ++i) {
    if (!filled_[i]) continue;
    const auto& [b, slot] = places_[i];
    flats_[b].sums.narrow(0, slot.begin, slot.size).zero_();
    filled_[i] = false;
  }
  waited_s_ = 0;
}

at::Tensor GradientBuckets::gradient(size_t bucket, const BucketSlot& slot) const {
  const Flat& flat = flats_[bucket];
  if (!options_.sharded) return flat.sums.narrow(0, slot.begin, slot.size);
  const ShardRange range = shard_of_slot(layout_[bucket], slot, group_.rank(), group_.world_size());
  const int64_t shard_begin = group_.rank() * flat.shard.numel();
  return range.size == 0 ? at::Tensor()
                         : flat.shard.narrow(0, slot.begin + range.begin - shard_begin, range.size);
}

double GradientBuckets::sum_of_squares(int64_t rank) const {
  std::vector<at::Tensor> norms;
  for (size_t b = 0; b < layout_.size(); ++b) {
    for (const BucketSlot& slot : layout_[b].slots) {
      const ShardRange range = shard_of_slot(layout_[b], slot, rank, group_.world_size());
      if (range.size == 0) continue;
      const at::Tensor part = options_.sharded
                                  ? gradient(b, slot)
                                  : flats_[b].sums.narrow(0, slot.begin + range.begin, range.size);
      norms.push_back(at::linalg_vector_norm(part, 2, {}, false, at::kDouble));
    }
  }
  if (norms.empty()) return 0;
  const at::Tensor on_cpu = at::stack(norms).cpu();
  double sum = 0;
  for (int64_t i = 0; i < on_cpu.numel(); ++i) {
    const double norm = on_cpu.const_data_ptr<double>()[i];
    sum += norm * norm;
  }
  return sum;
}

double GradientBuckets::norm() {
  double sum = 0;
  if (options_.sharded) {
    sum = group_.sum(sum_of_squares(group_.rank()));
  } else {
    for (int64_t rank = 0; rank < group_.world_size(); ++rank) sum += sum_of_squares(rank);
  }
  return std::sqrt(sum);
}

int64_t GradientBuckets::first_nonfinite() const {
  for (size_t i = 0; i < parameters_.size(); ++i) {
    if (!filled_[i]) continue;
    const auto& [b, slot] = places_[i];
    const at::Tensor own = flats_[b].sums.narrow(0, slot.begin, slot.size);
    if (!at::isfinite(own).all().item<bool>()) return static_cast<int64_t>(i);
  }
  return -1;
}

}  // namespace rwkv::trainer
