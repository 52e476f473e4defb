// The order of a linear's products: the low-rank part first, then the base weight on top, in one
// GEMM for parts whose weights lie together in memory (q,k,v; gate,up).
#include "cuda/linear.h"

#include <algorithm>

#include "core/error.h"
#include "cuda/dropout.h"
#include "cuda/elementwise.h"

namespace lema::cuda {
namespace {

constexpr size_t kMaxParts = 4;  // of one linear

// Weights that lie together, as one matrix (O, I), or (I, O) when transposed; columns
// [column, column + O) of y.
struct Weight {
  MatrixView data;
  bool transposed = false;
  int64_t column = 0, O = 0, I = 0;
  size_t begin = 0, end = 0;  // the parts

  // As the right operand of x W^T: (I, O).
  Operand from_input() const { return transposed ? Operand(data) : Operand(data).turned(); }
  // Some of the outputs, or of the inputs, alone.
  Weight outputs(int64_t first, int64_t n) const {
    Weight some = *this;
    some.data = transposed ? data.col_range(first, first + n) : data.row_range(first, first + n);
    some.O = n;
    return some;
  }
  Weight inputs(int64_t first, int64_t n) const {
    Weight some = *this;
    some.data = transposed ? data.row_range(first, first + n) : data.col_range(first, first + n);
    some.I = n;
    return some;
  }
};

struct Weights {
  std::array<Weight, kMaxParts> all;
  size_t count = 0;
  std::span<const Weight> span() const { return {all.data(), count}; }
};

bool continues(const Weight& weight, const LinearPart& next) {
  return !weight.transposed && !next.transposed && weight.data.dtype == next.weight.dtype &&
         weight.data.row_range(weight.O, weight.O).data == next.weight.data;
}

// Each run of parts that lie together and that `joined(p)` allows to follow part p - 1.
template <typename Joined>
Weights weights_of(std::span<const LinearPart> parts, const Joined& joined) {
  check(parts.size() <= kMaxParts, "linear: {} parts, {} at most", parts.size(), kMaxParts);
  Weights weights;
  int64_t column = 0;
  for (size_t p = 0; p < parts.size(); ++p) {
    const TensorView& w = parts[p].weight;
    const int64_t O = parts[p].out();
    if (p > 0 && joined(p) && continues(weights.all[weights.count - 1], parts[p])) {
      Weight& weight = weights.all[weights.count - 1];
      weight.O += O;
      weight.data.rows = weight.O;
      weight.end = p + 1;
    } else {
      const MatrixView data(w.data, w.dtype, w.shape[0], w.shape[1]);
      weights.all[weights.count++] = {data, parts[p].transposed, column, O, parts[p].in(), p,
                                      p + 1};
    }
    column += O;
  }
  return weights;
}

// The weight in dtype X, in scratch.
Weight converted(const Engine& engine, Weight w, DType X) {
  const MatrixView rounded = engine.workspace.take(X, w.data.rows, w.data.cols);
  convert(engine.stream, rounded, w.data);
  w.data = rounded;
  return w;
}

// How many outputs, or inputs, of a weight pass the scratch for converted weights at a time.
int64_t converted_step(int64_t other_side) {
  return std::max<int64_t>(8, kConvertedElements / round_up(other_side, 8) / 8 * 8);
}

// y = x W^T + beta y + bias; bias (1, O) of y's dtype, or a null view.
void multiply_forward(const Engine& engine, const MatrixView& y, const MatrixView& x,
                      const Weight& w, float beta, const MatrixView& bias) {
  const bool as_it_is = w.data.dtype == x.dtype;
  const int64_t step = as_it_is ? w.O : converted_step(w.I);
  for (int64_t o = 0; o < w.O; o += step) {
    const Workspace::Scope scope(engine.workspace);
    const int64_t n = std::min(step, w.O - o);
    const Weight part = as_it_is ? w : converted(engine, w.outputs(o, n), x.dtype);
    engine.gemm.run({y.col_range(o, o + n), x, part.from_input(), w.I, 1, beta,
                     bias ? bias.col_range(o, o + n).data : nullptr});
  }
}

// dx = dy W + beta dx; dx of dy's dtype or F32.
void multiply_backward(const Engine& engine, const MatrixView& dx, const MatrixView& dy,
                       const Weight& w, float beta) {
  const bool as_it_is = w.data.dtype == dy.dtype;
  const int64_t step = as_it_is ? w.I : converted_step(w.O);
  for (int64_t i = 0; i < w.I; i += step) {
    const Workspace::Scope scope(engine.workspace);
    const int64_t n = std::min(step, w.I - i);
    const Weight part = as_it_is ? w : converted(engine, w.inputs(i, n), dy.dtype);
    engine.gemm.run({dx.col_range(i, i + n), dy, part.from_input().turned(), w.O, 1, beta});
  }
}

// The biases of a weight's parts side by side, (1, O) of y's dtype; a null view where there is
// none.
MatrixView bias_of(const Engine& engine, const Weight& w, std::span<const LinearPart> parts,
                   DType dtype) {
  bool any = false;
  for (size_t p = w.begin; p < w.end; ++p) any = any || parts[p].bias;
  if (!any) return {};
  const MatrixView all = engine.workspace.take(dtype, 1, w.O);
  int64_t column = 0;
  for (size_t p = w.begin; p < w.end; ++p) {
    const int64_t O = parts[p].out();
    const MatrixView own = all.col_range(column, column + O);
    if (const TensorView& bias = parts[p].bias)
      convert(engine.stream, own, {bias.data, bias.dtype, 1, O});
    else
      fill(engine.stream, {own.data, dtype, {O}}, 0);
    column += O;
  }
  return all;
}

// sum (N, n) f32 = the adapters' share of columns [c, c + n) of dx; false where there is none.
bool low_rank_columns(const Engine& engine, const MatrixView& sum, const MatrixView& product,
                      const Adapters& adapters, int64_t c, int64_t I) {
  const int64_t n = sum.cols;
  Write write = Write::Overwrite;
  if (const MatrixView u = adapters.plain_u(); u.cols > 0) {
    engine.gemm.run({sum, u, adapters.plain_a().col_range(c, c + n), u.cols});
    write = Write::Accumulate;
  }
  for (const Adapter& adapter : adapters.all()) {
    if (!adapter.has_dropout()) continue;
    engine.gemm.run(
        {product, adapters.u(adapter), adapters.a(adapter).col_range(c, c + n), adapter.padded});
    add_kept(engine.stream, sum, product, *adapter.lora, {c, I}, write);
    write = Write::Accumulate;
  }
  return write == Write::Accumulate;
}

// dx (=|+=) the adapters' share and that of `weights`, 512 columns at a time in f32, rounded once.
void add_columns(const Engine& engine, const MatrixView& dx, const MatrixView& dy,
                 const Adapters& adapters, std::span<const Weight> weights, Write write) {
  const Workspace::Scope scope(engine.workspace);
  const MatrixView sums = engine.workspace.take(DType::F32, dx.rows, kMaskCols),
                   products = engine.workspace.take(DType::F32, dx.rows, kMaskCols);
  for (int64_t c = 0; c < dx.cols; c += kMaskCols) {
    const int64_t n = std::min(kMaskCols, dx.cols - c);
    const MatrixView sum = sums.col_range(0, n);
    float beta =
        low_rank_columns(engine, sum, products.col_range(0, n), adapters, c, dx.cols) ? 1.0f : 0.0f;
    for (const Weight& w : weights) {
      multiply_backward(engine, sum, dy.col_range(w.column, w.column + w.O), w.inputs(c, n), beta);
      beta = 1;
    }
    add_f32(engine.stream, dx.col_range(c, c + n), sum, write);
  }
}

}  // namespace

void linear(const Engine& engine, MatrixView y, MatrixView x, std::span<const LinearPart> parts,
            Write write) {
  const Workspace::Scope scope(engine.workspace);
  Adapters adapters(engine, x, parts);
  adapters.forward(x);
  // begun[p]: y's columns of part p hold something to add to.
  std::array<bool, kMaxParts> begun{};
  check(parts.size() <= kMaxParts, "linear: {} parts, {} at most", parts.size(), kMaxParts);
  int64_t column = 0;
  for (size_t p = 0; p < parts.size(); column += parts[p++].out()) {
    begun[p] = write == Write::Accumulate;
    const Adapter* adapter = adapters.of_part(p);
    if (adapter == nullptr) continue;
    engine.gemm.run({y.col_range(column, column + parts[p].out()), adapters.h(*adapter),
                     Operand(adapter->b).turned(), adapter->padded, 1, begun[p] ? 1.0f : 0.0f});
    begun[p] = true;
  }
  const Weights weights = weights_of(parts, [&](size_t p) { return begun[p] == begun[p - 1]; });
  for (const Weight& w : weights.span())
    multiply_forward(engine, y.col_range(w.column, w.column + w.O), x, w,
                     begun[w.begin] ? 1.0f : 0.0f, bias_of(engine, w, parts, y.dtype));
}

void linear_backward(const Engine& engine, MatrixView dx, MatrixView dy, MatrixView x,
                     std::span<const LinearPart> parts, Write write) {
  const Workspace::Scope scope(engine.workspace);
  Adapters adapters(engine, x, parts);
  adapters.backward(dy, x);
  if (!dx) return;
  const Weights weights = weights_of(parts, [](size_t) { return true; });
  if (weights.count > 1) return add_columns(engine, dx, dy, adapters, weights.span(), write);
  if (adapters.any_dropout()) {
    add_columns(engine, dx, dy, adapters, {}, write);
    write = Write::Accumulate;
  } else if (const MatrixView u = adapters.plain_u(); u.cols > 0) {
    engine.gemm.run(
        {dx, u, adapters.plain_a(), u.cols, 1, write == Write::Accumulate ? 1.0f : 0.0f});
    write = Write::Accumulate;
  }
  multiply_backward(engine, dx, dy, weights.all[0], write == Write::Accumulate ? 1.0f : 0.0f);
}

}  // namespace lema::cuda
