#include <ATen/ATen.h>
#include <torch/library.h>

#include <algorithm>

#include "cuda/elementwise.h"
#include "cuda/rows_cpu.h"
#include "cuda/wkv4.h"
#include "cuda/wkv4_cpu.h"

namespace rwkv::ops {
namespace {

using In = const at::Tensor&;

constexpr int64_t kBlock = 4096;  // elements of a row of ours: 16 KiB of floats

/// Calls body(first, n) for blocks of n <= kBlock elements, on all threads.
template <typename Body>
void for_each_block(int64_t elements, const Body& body) {
  parallel_pieces((elements + kBlock - 1) / kBlock, 4, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      body(i * kBlock, std::min(kBlock, elements - i * kBlock));
    }
  });
}

at::Tensor relu_square_cpu(In x) {
  check_elementwise("relu_square", x);
  const at::Tensor from = x.contiguous();
  const at::Tensor y = at::empty(x.sizes(), x.options());
  with_storage_type(x.scalar_type(), [&]<typename S>(std::type_identity<S>) {
    const S* in = from.const_data_ptr<S>();
    S* out = y.mutable_data_ptr<S>();
    for_each_block(x.numel(), [&](int64_t i, int64_t n) {
      StagedRow<S> x_row(n), y_row(n);
      row_kernels<RowMath<S>>().relu_square(x_row.read(in + i), y_row.target(out + i), n);
      y_row.write(out + i);
    });
  });
  return y;
}

at::Tensor relu_square_backward_cpu(In x, at::Tensor g) {
  check_elementwise("relu_square", x, "the gradient", g);
  TORCH_CHECK(g.is_contiguous(), "relu_square: the gradient must be contiguous, its strides are ",
              g.strides());
  const at::Tensor from = x.contiguous();
  const at::Tensor y = at::empty(x.sizes(), x.options());
  with_storage_type(x.scalar_type(), [&]<typename S>(std::type_identity<S>) {
    const S* in = from.const_data_ptr<S>();
    S* gradient = g.mutable_data_ptr<S>();
    S* out = y.mutable_data_ptr<S>();
    for_each_block(x.numel(), [&](int64_t i, int64_t n) {
      StagedRow<S> x_row(n), g_row(n), y_row(n);
      g_row.read(gradient + i);
      row_kernels<RowMath<S>>().relu_square_backward(x_row.read(in + i), g_row.target(gradient + i),
                                                     y_row.target(out + i), n);
      g_row.write(gradient + i);
      y_row.write(out + i);
    });
  });
  return y;
}

at::Tensor gate_residual_cpu(In x, In r, In v) {
  check_elementwise("gate_residual", x, "r", r);
  check_elementwise("gate_residual", x, "v", v);
  const at::Tensor x_rows = x.contiguous(), r_rows = r.contiguous(), v_rows = v.contiguous();
  const at::Tensor out = at::empty(x.sizes(), x.options());
  with_storage_type(x.scalar_type(), [&]<typename S>(std::type_identity<S>) {
    const S *px = x_rows.const_data_ptr<S>(), *pr = r_rows.const_data_ptr<S>(),
            *pv = v_rows.const_data_ptr<S>();
    S* to = out.mutable_data_ptr<S>();
    for_each_block(x.numel(), [&](int64_t i, int64_t n) {
      StagedRow<S> x_row(n), r_row(n), v_row(n), out_row(n);
      row_kernels<RowMath<S>>().gate_residual(x_row.read(px + i), r_row.read(pr + i),
                                              v_row.read(pv + i), out_row.target(to + i), n);
      out_row.write(to + i);
    });
  });
  return out;
}

std::tuple<at::Tensor, at::Tensor> gate_residual_backward_cpu(In g, In r, In v) {
  check_elementwise("gate_residual", g, "r", r);
  check_elementwise("gate_residual", g, "v", v);
  const at::Tensor g_rows = g.contiguous(), r_rows = r.contiguous(), v_rows = v.contiguous();
  const at::Tensor gr = at::empty(g.sizes(), g.options()), gv = at::empty(g.sizes(), g.options());
  with_storage_type(g.scalar_type(), [&]<typename S>(std::type_identity<S>) {
    const S *pg = g_rows.const_data_ptr<S>(), *pr = r_rows.const_data_ptr<S>(),
            *pv = v_rows.const_data_ptr<S>();
    S *to_r = gr.mutable_data_ptr<S>(), *to_v = gv.mutable_data_ptr<S>();
    for_each_block(g.numel(), [&](int64_t i, int64_t n) {
      StagedRow<S> g_row(n), r_row(n), v_row(n), gr_row(n), gv_row(n);
      row_kernels<RowMath<S>>().gate_residual_backward(g_row.read(pg + i), r_row.read(pr + i),
                                                       v_row.read(pv + i), gr_row.target(to_r + i),
                                                       gv_row.target(to_v + i), n);
      gr_row.write(to_r + i);
      gv_row.write(to_v + i);
    });
  });
  return {gr, gv};
}

TORCH_LIBRARY_IMPL(rwkv, CPU, m) {
  m.impl("relu_square", relu_square_cpu);
  m.impl("relu_square_backward_", relu_square_backward_cpu);
  m.impl("gate_residual", gate_residual_cpu);
  m.impl("gate_residual_backward", gate_residual_backward_cpu);
}

}  // namespace
}  // namespace rwkv::ops
