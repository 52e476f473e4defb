// Some thousand vocabulary rows at a time: logits by one GEMM, softmax, and the weighted sum of the
// same rows by another; 4 N V C flops in all, logits of N x 2,048 at most.
#include "cuda/head.h"

#include <algorithm>

#include "cuda/elementwise.h"

namespace lema::cuda {
namespace {

// Rows [begin, begin + n) of the weight in dtype X, converted in scratch where they are not.
MatrixView weight_rows(const Engine& engine, const TensorView& weight, DType X, int64_t begin,
                       int64_t n) {
  const MatrixView rows = MatrixView(weight.data, weight.dtype, weight.shape[0], weight.shape[1])
                              .row_range(begin, begin + n);
  if (weight.dtype == X) return rows;
  const MatrixView rounded = engine.workspace.take(X, n, rows.cols);
  convert(engine.stream, rounded, rows);
  return rounded;
}

// use(begin, rows of the weight in X, logits (N, n) f32, p (N, n) X) for parts of the weight's rows
// in ascending order; p takes the place of f32 logits.
template <typename Use>
void for_logits(const Engine& engine, const MatrixView& x, const TensorView& weight,
                const Use& use) {
  const DType X = x.dtype;
  const int64_t C = x.cols, V = weight.shape[0];
  int64_t step = kLogitCols;
  if (weight.dtype != X) step = std::min(step, converted_step(C, X));
  for (int64_t v = 0; v < V; v += step) {
    const Workspace::Scope scope(engine.workspace);
    const int64_t n = std::min(step, V - v);
    const MatrixView w = weight_rows(engine, weight, X, v, n);
    const MatrixView logits = engine.workspace.take(DType::F32, x.rows, n);
    const MatrixView p = X == DType::F32 ? logits : engine.workspace.take(X, x.rows, n);
    engine.gemm.run({logits, x, Operand(w).turned(), C});
    use(v, w, logits, p);
  }
}

}  // namespace

void head_chunk(const Engine& engine, const HeadState& state, MatrixView x, TensorView weight,
                int64_t v_begin, TensorView targets) {
  if (state.acc) copy_targets(engine.stream, state, weight, v_begin, targets);
  for_logits(engine, x, weight, [&](int64_t v, MatrixView w, MatrixView logits, MatrixView p) {
    softmax_chunk(engine.stream, state, p, logits, v_begin + v, targets);
    if (!state.acc) return;
    const MatrixView acc(state.acc.data, DType::F32, x.rows, x.cols);
    engine.gemm.run({acc, p, w, w.rows, 1 / unit(x.dtype), 1});
  });
}

void head_weight_backward(const Engine& engine, TensorView d_weight, const HeadState& state,
                          MatrixView x, TensorView weight, int64_t v_begin, TensorView targets,
                          float grad_scale) {
  const int64_t K = d_weight.shape[1];
  const MatrixView last = x.col_range(x.cols - K, x.cols);
  for_logits(engine, x, weight, [&](int64_t v, MatrixView w, MatrixView logits, MatrixView p) {
    logit_gradients(engine.stream, state, p, logits, v_begin + v, targets);
    const MatrixView out(d_weight.as<float>() + v * K, DType::F32, w.rows, K);
    engine.gemm.run({out, Operand(p).turned(), last, x.rows, grad_scale / unit(x.dtype), 1});
  });
}

}  // namespace lema::cuda
