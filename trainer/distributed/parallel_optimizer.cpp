#include "trainer/distributed/parallel_optimizer.h"

#include <torch/torch.h>

#include <cmath>
#include <utility>

namespace rwkv::trainer {

ParallelOptimizer::ParallelOptimizer(RankGroup& group, std::vector<OptimizedParameter> parameters,
                                     const OptimizerConfig& optimizer,
                                     const DistributedConfig& distributed)
    : group_(group),
      sharded_(!group.is_alone() && distributed.zero > 0),
      whole_(std::move(parameters)) {
  if (!group.is_alone()) {
    std::vector<at::Tensor> values;
    for (const OptimizedParameter& parameter : whole_) values.push_back(parameter.value);
    const BucketOptions options{
        .bucket_bytes = std::llround(distributed.bucket_mib * (1 << 20)),
        .reduce_in = distributed.reduce == ReducePrecision::kBf16 ? at::kBFloat16 : at::kFloat,
        .sharded = sharded_};
    buckets_ = std::make_unique<GradientBuckets>(group, std::move(values), options);
  }
  if (sharded_) {
    make_pieces(optimizer);
  } else {
    adam_ = std::make_unique<Adam>(whole_, optimizer);
    // Adam made masters where there were none.
    whole_ = adam_->parameters();
  }
}

void ParallelOptimizer::make_pieces(const OptimizerConfig& optimizer) {
  std::vector<OptimizedParameter> shards;
  for (size_t b = 0; b < buckets_->layout().size(); ++b) {
    const Bucket& bucket = buckets_->layout()[b];
    for (const BucketSlot& slot : bucket.slots) {
      OptimizedParameter& parameter = whole_[slot.parameter];
      const ShardRange range = shard_of_slot(bucket, slot, group_.rank(), group_.world_size());
      if (range.size > 0) {
        const auto part = [&](const at::Tensor& tensor) {
          return tensor.detach().view({-1}).narrow(0, range.begin, range.size);
        };
        OptimizedParameter shard = parameter;
        shard.value = part(parameter.value).requires_grad_();  // without: frozen, for Adam
        if (parameter.master.defined()) shard.master = part(parameter.master).clone();
        shards.push_back(std::move(shard));
        pieces_.push_back({slot.parameter, b, slot, range});
      }
      parameter.master.reset();  // the shards of all ranks are the masters
    }
  }
  adam_ = std::make_unique<Adam>(std::move(shards), optimizer);
}

void ParallelOptimizer::before_backward(bool last) {
  if (buckets_) buckets_->before_backward(last);
}

void ParallelOptimizer::after_backward(int64_t passes) {
  if (!buckets_ && passes > 1) adam_->accumulate_gradients();
}

double ParallelOptimizer::gradient_norm() {
  if (!buckets_) return adam_->gradient_norm();
  buckets_->finish();
  return buckets_->norm();
}

void ParallelOptimizer::hand_gradients_to_adam() {
  if (sharded_) {
    for (size_t k = 0; k < pieces_.size(); ++k) {
      if (!buckets_->has_gradient(pieces_[k].parameter)) continue;
      adam_->set_gradient(k, buckets_->gradient(pieces_[k].bucket, pieces_[k].slot));
    }
    return;
  }
  for (size_t b = 0; b < buckets_->layout().size(); ++b) {
    for (const BucketSlot& slot : buckets_->layout()[b].slots) {
      if (!buckets_->has_gradient(slot.parameter)) continue;
      adam_->set_gradient(slot.parameter,
                          buckets_->gradient(b, slot).view(whole_[slot.parameter].value.sizes()));
    }
  }
}

void ParallelOptimizer::step(const StepSettings& settings, double gradient_norm,
                             double loss_scale) {
  if (buckets_) hand_gradients_to_adam();
  if (adam_->parameters().empty()) {  // a small model leaves some of many ranks without a shard
    adam_->set_steps(adam_->steps() + 1);
  } else {
    adam_->step(settings, gradient_norm, loss_scale);
  }
  if (sharded_) gather_values();
}

void ParallelOptimizer::zero_grad() {
  adam_->zero_grad();
  if (buckets_) buckets_->clear();
}

std::string ParallelOptimizer::first_nonfinite_gradient() const {
  return adam_->first_nonfinite_gradient();
}

std::string ParallelOptimizer::first_nonfinite_own_gradient() const {
  const int64_t i = buckets_ ? buckets_->first_nonfinite() : -1;
  return i < 0 ? "" : whole_[static_cast<size_t>(i)].name;
}

at::Tensor ParallelOptimizer::gather_bucket(size_t bucket, const std::vector<at::Tensor>& parts,
                                            at::ScalarType type) {
  const Bucket& layout = buckets_->layout()[bucket];
  const int64_t shard_size = layout.size / group_.world_size();
  const auto options =
      at::TensorOptions(whole_[layout.slots.front().parameter].value.device()).dtype(type);
  const at::Tensor shard = at::zeros({shard_size}, options);
  for (size_t k = 0; k < pieces_.size(); ++k) {
    if (pieces_[k].bucket != bucket) continue;
    const int64_t begin =
        pieces_[k].slot.begin + pieces_[k].range.begin - group_.rank() * shard_size;
    shard.narrow(0, begin, pieces_[k].range.size).copy_(parts[k]);
  }
  const at::Tensor flat = at::empty({layout.size}, options);
  group_.all_gather(flat, shard);
  return flat;
}

void ParallelOptimizer::gather_all(const std::vector<at::Tensor>& parts, bool as_float32,
                                   const std::function<void(size_t, const at::Tensor&)>& take) {
  for (size_t b = 0; b < buckets_->layout().size(); ++b) {
    const auto& slots = buckets_->layout()[b].slots;
    at::ScalarType type = whole_[slots.front().parameter].value.scalar_type();
    // A 16-bit model keeps some parameters in fp32: together they travel as fp32.
    for (const BucketSlot& slot : slots) {
      if (as_float32 || whole_[slot.parameter].value.scalar_type() != type) type = at::kFloat;
    }
    const at::Tensor flat = gather_bucket(b, parts, type);
    for (const BucketSlot& slot : slots) {
      take(slot.parameter,
           flat.narrow(0, slot.begin, slot.size).view(whole_[slot.parameter].value.sizes()));
    }
  }
}

void ParallelOptimizer::gather_values() {
  RECORD_USER_SCOPE("rwkv::wait_for_ranks");
  const torch::NoGradGuard no_grad;
  std::vector<at::Tensor> parts;
  for (const OptimizedParameter& piece : adam_->parameters()) parts.push_back(piece.value);
  gather_all(parts, /*as_float32=*/false,
             [this](size_t i, const at::Tensor& value) { whole_[i].value.detach().copy_(value); });
}

ParallelOptimizer::NamedTensors ParallelOptimizer::masters() {
  const torch::NoGradGuard no_grad;
  std::vector<at::Tensor> masters;
  bool some_are_sharded = false;
  for (const OptimizedParameter& parameter : whole_) {
    const bool is_float = parameter.value.scalar_type() == at::kFloat;
    masters.push_back(is_float ? parameter.value : parameter.master);
    some_are_sharded = some_are_sharded || !masters.back().defined();
  }
  if (some_are_sharded) {
    std::vector<at::Tensor> parts;
    for (const OptimizedParameter& piece : adam_->parameters()) parts.push_back(piece.master);
    gather_all(parts, /*as_float32=*/true, [&](size_t i, const at::Tensor& master) {
      if (group_.is_main())
        masters[i] = master.to(at::kCPU, at::kFloat, /*non_blocking=*/false, /*copy=*/true);
    });
  }
  NamedTensors named;
  for (size_t i = 0; group_.is_main() && i < whole_.size(); ++i) {
    named.emplace_back(whole_[i].name, masters[i].detach());
  }
  return named;
}

std::vector<int64_t> ParallelOptimizer::writers() const {
  std::vector<int64_t> sizes;
  for (const OptimizedParameter& p : whole_) {
    if (p.value.requires_grad()) sizes.push_back(p.value.numel());
  }
  const std::vector<int64_t> shared = share_out(sizes, group_.world_size());
  std::vector<int64_t> writers;
  size_t next = 0;
  for (const OptimizedParameter& p : whole_) {
    writers.push_back(p.value.requires_grad() ? shared[next++] : -1);
  }
  return writers;
}

ParallelOptimizer::NamedTensors ParallelOptimizer::moments_to_write() {
  const torch::NoGradGuard no_grad;
  const std::vector<int64_t> writer = writers();
  std::vector<at::Tensor> exp_avg = adam_->exp_avg();
  std::vector<at::Tensor> exp_avg_sq = adam_->exp_avg_sq();
  if (sharded_) {
    for (auto* moments : {&exp_avg, &exp_avg_sq}) {
      std::vector<at::Tensor> gathered(whole_.size());
      gather_all(*moments, /*as_float32=*/true, [&](size_t i, const at::Tensor& whole) {
        if (writer[i] == group_.rank())
          gathered[i] = whole.to(at::kCPU, at::kFloat, /*non_blocking=*/false, /*copy=*/true);
      });
      *moments = std::move(gathered);
    }
  }
  NamedTensors named;
  for (size_t i = 0; i < whole_.size(); ++i) {
    if (writer[i] != group_.rank()) continue;
    named.emplace_back(whole_[i].name + ".exp_avg", exp_avg[i]);
    named.emplace_back(whole_[i].name + ".exp_avg_sq", exp_avg_sq[i]);
  }
  return named;
}

std::vector<std::pair<std::string, std::vector<int64_t>>> ParallelOptimizer::moment_shapes() const {
  std::vector<std::pair<std::string, std::vector<int64_t>>> shapes;
  for (const OptimizedParameter& parameter : whole_) {
    if (!parameter.value.requires_grad()) continue;
    for (const char* kind : {".exp_avg", ".exp_avg_sq"}) {
      shapes.emplace_back(parameter.name + kind, parameter.value.sizes().vec());
    }
  }
  return shapes;
}

void ParallelOptimizer::restore(
    const std::function<void(const std::string&, const at::Tensor&)>& read_master,
    const std::function<void(const std::string&, const at::Tensor&)>& read_moment) {
  const torch::NoGradGuard no_grad;
  for (const OptimizedParameter& parameter : whole_) {
    const bool has_copy = parameter.master.defined() && !parameter.value.is_same(parameter.master);
    if (has_copy) read_master(parameter.name, parameter.master);
  }
  if (!sharded_) {
    for (size_t i = 0; i < whole_.size(); ++i) {
      if (!adam_->exp_avg()[i].defined()) continue;  // frozen
      read_moment(whole_[i].name + ".exp_avg", adam_->exp_avg()[i]);
      read_moment(whole_[i].name + ".exp_avg_sq", adam_->exp_avg_sq()[i]);
    }
    adam_->copy_masters_to_values();
    return;
  }
  for (size_t k = 0; k < pieces_.size(); ++k) {
    const OptimizedParameter& piece = adam_->parameters()[k];
    const OptimizedParameter& parameter = whole_[pieces_[k].parameter];
    const at::Tensor whole = at::empty(parameter.value.sizes(), at::kFloat);
    const auto part = [&] {
      return whole.view({-1}).narrow(0, pieces_[k].range.begin, pieces_[k].range.size);
    };
    if (parameter.value.scalar_type() != at::kFloat) {
      read_master(parameter.name, whole);
      piece.master.copy_(part());
    }
    read_moment(parameter.name + ".exp_avg", whole);
    adam_->exp_avg()[k].copy_(part());
    read_moment(parameter.name + ".exp_avg_sq", whole);
    adam_->exp_avg_sq()[k].copy_(part());
  }
  adam_->copy_masters_to_values();
}

}  // namespace rwkv::trainer
