#pragma once

#include <ATen/core/Tensor.h>

#include <map>
#include <string>

namespace rwkv::model {

/// What a recurrent model remembers of the tokens it has seen: rows by name, e.g.
/// "blocks.0.att.xx".
///
/// The names are those of the modules that own the rows. A missing row means "nothing seen yet", so
/// `State{}` is the start of a text for every model and batch size. A forward pass replaces rows
/// and never writes into them: a copy of a State is a branch, and costs no memory until the two
/// part.
///
/// RWKV-4, per block (shapes with batch B; C = n_embd, A = dim_att):
///   att.xx, ffn.xx [B,C]         output of ln1 / ln2 at the last token (ffnPre.xx in place of
///   att.* with pre_ffn) att.aa, att.bb, att.pp [B,A] WKV sums; numerator aa e^pp, denominator bb
///   e^pp
/// and with Head-QK: head_qk.k [B,n,Dq], head_qk.ids [B,n], the keys and ids of all n tokens so
/// far.
struct State {
  std::map<std::string, at::Tensor> rows;

  /// The row `name`, or an undefined tensor when nothing has been seen.
  [[nodiscard]] at::Tensor get(const std::string& name) const {
    const auto found = rows.find(name);
    return found == rows.end() ? at::Tensor() : found->second;
  }
  void set(const std::string& name, const at::Tensor& row) { rows[name] = row; }
  /// A copy that shares no memory with this one.
  [[nodiscard]] State clone() const {
    State copy;
    for (const auto& [name, row] : rows) copy.rows[name] = row.clone();
    return copy;
  }
};

}  // namespace rwkv::model
