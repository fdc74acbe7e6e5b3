#include "model/grad_checkpoint.h"

#include <torch/torch.h>

#include <utility>

namespace rwkv::model {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// The autograd graph carries values of its own kinds only; this one carries a function.
struct Segment : torch::CustomClassHolder {
  explicit Segment(std::function<at::Tensor(const at::Tensor&)> f) : run(std::move(f)) {}
  std::function<at::Tensor(const at::Tensor&)> run;
};

class Recomputed : public torch::autograd::Function<Recomputed> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x,
                            const c10::intrusive_ptr<Segment>& segment) {
    context->save_for_backward({x});
    context->saved_data["segment"] = c10::IValue::make_capsule(segment);
    return segment->run(x);  // gradients are switched off in here
  }

  /// A backward pass inside the backward pass: it leaves the parameters' gradients where the outer
  /// one would have left them.
  static variable_list backward(AutogradContext* context, const variable_list& incoming) {
    const auto segment =
        c10::static_intrusive_pointer_cast<Segment>(context->saved_data["segment"].toCapsule());
    const at::Tensor x = context->get_saved_variables()[0].detach().requires_grad_();
    {
      const torch::AutoGradMode enabled(true);
      torch::autograd::backward({segment->run(x)}, {incoming[0]});
    }
    return {x.grad(), {}};
  }
};

}  // namespace

at::Tensor grad_checkpoint(std::function<at::Tensor(const at::Tensor&)> segment,
                           const at::Tensor& x) {
  if (!at::GradMode::is_enabled() || !x.requires_grad()) return segment(x);
  return Recomputed::apply(x, c10::make_intrusive<Segment>(std::move(segment)));
}

}  // namespace rwkv::model
