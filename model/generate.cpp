#include "model/generate.h"

#include <torch/torch.h>

#include <algorithm>

namespace rwkv::model {

at::Tensor prefill(LanguageModel& model, std::span<const int64_t> ids, State& state,
                   int64_t chunk) {
  TORCH_CHECK(!ids.empty() && chunk > 0, "prefill: ", ids.size(), " ids in chunks of ", chunk,
              ": both must be positive");
  const torch::NoGradGuard no_grad;
  const at::Device device = model.parameters().front().device();
  at::Tensor logits;
  while (!ids.empty()) {
    const auto piece = ids.first(std::min(ids.size(), static_cast<size_t>(chunk)));
    const at::Tensor input =
        at::tensor(at::ArrayRef<int64_t>(piece.data(), piece.size()), at::kLong);
    logits = model.forward(input.unsqueeze(0).to(device), &state, Positions::kLast);
    ids = ids.subspan(piece.size());
  }
  return logits.view({-1}).to(at::kCPU,
                              logits.scalar_type() == at::kDouble ? at::kDouble : at::kFloat);
}

std::vector<int64_t> generate(LanguageModel& model, std::span<const int64_t> prompt,
                              const GenerateOptions& options, State& state,
                              const std::function<bool(int64_t)>& on_token) {
  std::vector<int64_t> drawn;
  if (options.tokens <= 0) return drawn;
  DrawStream stream(options.seed);
  at::Tensor logits = prefill(model, prompt, state);
  while (true) {
    const int64_t id = draw(next_token_probabilities(logits, options.sampling), stream.next());
    drawn.push_back(id);
    const bool enough = std::ssize(drawn) >= options.tokens;
    if (!on_token(id) || enough) return drawn;
    logits = prefill(model, std::span(&id, 1), state);
  }
}

}  // namespace rwkv::model
