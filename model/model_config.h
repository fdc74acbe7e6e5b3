#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "data/base/named.h"

namespace rwkv::model {

/// What Head-QK adds for an id that stands at several places of the context: the sum of their
/// scores, or the largest one.
enum class HeadQkReduce { kSum, kMax };
inline constexpr std::array kHeadQkReduceNames = {Named{HeadQkReduce::kSum, "sum"},
                                                  Named{HeadQkReduce::kMax, "max"}};

/// Architecture and sizes of a model: the section `model` of a run configuration.
struct ModelConfig {
  std::string arch = "rwkv4";
  int64_t n_layer = 6;
  int64_t n_embd = 512;
  int64_t dim_att = 0;
  int64_t dim_ffn = 0;
  int64_t vocab_size = 0;
  int64_t head_qk = 0;
  HeadQkReduce head_qk_reduce = HeadQkReduce::kSum;
  bool pre_ffn = false;
  double emb_init = 1e-4;       // used unless emb_init_is_lr
  bool emb_init_is_lr = false;  // `emb_init: lr_init`

  /// Width of r, k, v inside TimeMix.
  [[nodiscard]] int64_t att_size() const { return dim_att > 0 ? dim_att : n_embd; }
  /// Width of the hidden layer of ChannelMix.
  [[nodiscard]] int64_t ffn_size() const { return dim_ffn > 0 ? dim_ffn : 4 * n_embd; }

  bool operator==(const ModelConfig&) const = default;

  /// Names every field once; see trainer/config.h for what is made from this list.
  template <typename Self, typename Visitor>
  static void visit(Self& self, Visitor& v) {
    v.word("arch", self.arch, {"rwkv4"}, "architecture");
    v.integer("n_layer", self.n_layer, 1, 1000, "number of blocks L");
    v.integer("n_embd", self.n_embd, 1, 65536, "width C of the residual stream");
    v.integer("dim_att", self.dim_att, 0, 262144, "width of TimeMix; 0 = n_embd");
    v.integer("dim_ffn", self.dim_ffn, 0, 1048576, "hidden width of ChannelMix; 0 = 4 * n_embd");
    v.integer("vocab_size", self.vocab_size, 0, 16777216, "entries V; 0 = from the data");
    v.integer("head_qk", self.head_qk, 0, 65536, "width of Head-QK (256 in RWKV-2); 0 = off");
    v.choice("head_qk_reduce", self.head_qk_reduce, kHeadQkReduceNames,
             "what Head-QK adds for a repeated token: all scores or the largest");
    v.flag("pre_ffn", self.pre_ffn, "a ChannelMix instead of TimeMix in block 0");
    v.real_or_word("emb_init", self.emb_init, self.emb_init_is_lr, "lr_init", 0.0, 1.0,
                   "embedding starts uniform in +-this; lr_init = the first lr (RWKV-4neo)");
  }
};

}  // namespace rwkv::model
