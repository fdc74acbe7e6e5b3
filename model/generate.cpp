#include "model/generate.h"

#include <torch/torch.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "data/base/error.h"

namespace rwkv::model {
namespace {

at::Tensor on_cpu(const at::Tensor& logits) {
  return logits.to(at::kCPU, logits.scalar_type() == at::kDouble ? at::kDouble : at::kFloat);
}

bool same_shapes(const State& a, const State& b) {
  if (a.rows.size() != b.rows.size()) return false;
  return std::ranges::all_of(a.rows, [&b](const auto& entry) {
    const at::Tensor other = b.get(entry.first);
    return other.defined() && other.sizes() == entry.second.sizes();
  });
}

/// The states of all contexts as one state of that many rows.
State stacked(std::span<Context* const> contexts) {
  State all;
  for (const auto& entry : contexts.front()->state.rows) {
    std::vector<at::Tensor> rows;
    for (const Context* context : contexts) rows.push_back(context->state.get(entry.first));
    all.set(entry.first, at::cat(rows));
  }
  return all;
}

}  // namespace

at::Tensor prefill(LanguageModel& model, std::span<const int64_t> ids, State& state, int64_t chunk,
                   const FeedProgress& progress) {
  TORCH_CHECK(!ids.empty() && chunk > 0, "prefill: ", ids.size(), " ids in chunks of ", chunk,
              ": both must be positive");
  const torch::NoGradGuard no_grad;
  const at::Device device = model.parameters().front().device();
  const auto all = std::ssize(ids);
  at::Tensor logits;
  while (!ids.empty()) {
    const auto piece = ids.first(std::min(ids.size(), static_cast<size_t>(chunk)));
    const at::Tensor input =
        at::tensor(at::ArrayRef<int64_t>(piece.data(), piece.size()), at::kLong);
    logits = model.forward(input.unsqueeze(0).to(device), &state, Positions::kLast);
    ids = ids.subspan(piece.size());
    if (progress) progress(all - std::ssize(ids), all);
  }
  return on_cpu(logits.view({-1}));
}

void check_ids(std::span<const int64_t> ids, int64_t vocab_size, const char* place) {
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] >= 0 && ids[i] < vocab_size) continue;
    user_error("{}: token {} is {}; ids of this model lie in 0..{}", place, i, ids[i],
               vocab_size - 1);
  }
}

void feed(LanguageModel& model, std::span<const int64_t> ids, Context& context, int64_t chunk,
          const FeedProgress& progress) {
  if (ids.empty()) return;
  context.logits = prefill(model, ids, context.state, chunk, progress);
  context.tokens.insert(context.tokens.end(), ids.begin(), ids.end());
}

void feed_together(LanguageModel& model, std::span<const int64_t> ids,
                   std::span<Context* const> contexts) {
  TORCH_CHECK(ids.size() == contexts.size(), "feed_together: ", ids.size(), " ids, ",
              contexts.size(), " contexts");
  const bool alike = std::ranges::all_of(contexts, [&](const Context* context) {
    return same_shapes(context->state, contexts.front()->state);
  });
  if (contexts.size() < 2 || !alike) {
    for (size_t i = 0; i < ids.size(); ++i) feed(model, ids.subspan(i, 1), *contexts[i]);
    return;
  }
  const torch::NoGradGuard no_grad;
  const at::Device device = model.parameters().front().device();
  State all = stacked(contexts);
  const at::Tensor input = at::tensor(at::ArrayRef<int64_t>(ids.data(), ids.size()), at::kLong);
  const at::Tensor logits =
      on_cpu(model.forward(input.unsqueeze(1).to(device), &all, Positions::kLast).squeeze(1));
  for (size_t i = 0; i < contexts.size(); ++i) {
    const auto row = static_cast<int64_t>(i);
    for (const auto& [name, rows] : all.rows) contexts[i]->state.set(name, rows.narrow(0, row, 1));
    contexts[i]->logits = logits[row];
    contexts[i]->tokens.push_back(ids[i]);
  }
}

Generator::Generator(LanguageModel& model, const GenerateOptions& options, Context& context)
    : model_(model), options_(options), context_(context), stream_(options.seed, context.draws) {
  TORCH_CHECK(context.logits.defined(), "Generator: the context has seen no token");
  check_ids(options.banned_tokens, context.logits.numel(), "banned tokens");
}

std::optional<int64_t> Generator::next() {
  settle();
  at::Tensor logits =
      context_.logits.clone();  // the context's own are kept: a branch may need them
  if (options_.adjust) options_.adjust(drawn_, logits);
  for (const int64_t id : options_.banned_tokens) logits[id] = -INFINITY;
  apply_penalties(logits, context_.occurrence, options_.penalties);
  const int64_t id = draw(next_token_probabilities(logits, options_.sampling), stream_.next());
  context_.draws = stream_.position();
  ++drawn_;
  if (std::ranges::find(options_.stop_tokens, id) != options_.stop_tokens.end()) return {};
  count_token(context_.occurrence, id, options_.weight_of ? options_.weight_of(id) : 1.0,
              options_.penalties);
  pending_ = id;
  return id;
}

void Generator::settle() {
  if (!pending_) return;
  feed(model_, std::span(&*pending_, 1), context_);
  pending_.reset();
}

void Generator::settle_all(LanguageModel& model, std::span<Generator* const> generators) {
  std::vector<int64_t> ids;
  std::vector<Context*> contexts;
  for (Generator* generator : generators) {
    if (!generator->pending_) continue;
    ids.push_back(*std::exchange(generator->pending_, std::nullopt));
    contexts.push_back(&generator->context_);
  }
  feed_together(model, ids, contexts);
}

std::vector<int64_t> generate(LanguageModel& model, std::span<const int64_t> prompt,
                              const GenerateOptions& options, State& state,
                              const std::function<bool(int64_t)>& on_token) {
  std::vector<int64_t> drawn;
  if (options.tokens <= 0) return drawn;
  Context context;
  context.state = state;
  feed(model, prompt, context);
  Generator generator(model, options, context);
  while (std::ssize(drawn) < options.tokens) {
    const auto id = generator.next();
    if (!id) break;
    drawn.push_back(*id);
    if (!on_token(*id)) break;
  }
  state = context.state;
  return drawn;
}

}  // namespace rwkv::model
