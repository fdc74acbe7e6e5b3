#pragma once

#include <memory>
#include <optional>
#include <string>

#include "model/formats/tensor_file.h"
#include "model/language_model.h"
#include "model/weights.h"

namespace rwkv::model {

struct InferenceOptions {
  std::string strategy = "cpu fp32";                 ///< see model/inference/strategy.h
  HeadQkReduce head_qk_reduce = HeadQkReduce::kSum;  ///< no weight file says it
  /// Period R of the `rwkv` package's guard against the overflow of fp16: layer l adds its outputs
  /// divided by 2^floor(l/R) to the residual stream, which is halved after every R layers. Layer
  /// norms remove the factor but for their epsilon. 0: off. Without a value the package's rule: 6
  /// if the strategy names fp16, else off; float32 activations do not need it.
  std::optional<int64_t> rescale_layer = std::nullopt;
};

/// Whether load_inference_model() runs the model in `file`: RWKV-4, with pre_ffn and Head-QK or
/// without.
bool can_run_inference(const formats::TensorFile& file);

/// What load_inference_model() returns.
class InferenceModel : public LanguageModel {
 public:
  /// Bytes of matrices that one token of one sequence reads, from memory or from the file.
  [[nodiscard]] virtual int64_t weight_bytes() const = 0;
};

/// A model for use alone, in the precision of a strategy: no gradients, no modules. It computes
/// what Rwkv4 computes, within rounding, with the same names of state rows, so states can be handed
/// from one to the other; activations and states are float32. `config()` is that of the file.
///
/// One token of one sequence (T = 1) reads every weight once and is bound by memory alone; the rows
/// of the state are written in place where nobody else holds them, so a copy of a State remains a
/// branch. Longer inputs run in parallel over T: weights that are not float32 are widened block by
/// block (bfloat16 products are used where the processor has them).
/// Only the vectors are parameters of the module, with "_" for "." in their names; there is nothing
/// to train.
///
/// `file` must be one of which can_run_inference() is true. Weights are read tensor by tensor, so
/// memory is that of the resident layers and one tensor. Streamed layers keep the file mapped and
/// are read again for each forward. With i8-seed, the loader lets the model write 128 tokens of its
/// own and fits the scales to what it saw (see quantise.h); the file is then read twice. Throws
/// UserError: a strategy that cannot be parsed or needs a device that is not there, damaged or
/// misshapen tensors, memory that ends.
std::shared_ptr<InferenceModel> load_inference_model(formats::TensorFile file,
                                                     const InferenceOptions& options,
                                                     const LoadProgress& progress = {});

}  // namespace rwkv::model
