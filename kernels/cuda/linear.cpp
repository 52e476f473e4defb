// The order of a linear's products: the low-rank part first, then the base weight on top, in one
// GEMM for parts whose weights lie together in memory (q,k,v; gate,up).
#include "cuda/linear.h"

#include <algorithm>

#include "core/error.h"
#include "cuda/dora.h"
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

Weight weight_of(std::span<const LinearPart> parts, size_t p, int64_t column) {
  const TensorView& w = parts[p].weight;
  return {{w.data, w.dtype, w.shape[0], w.shape[1]},
          parts[p].transposed,
          column,
          parts[p].out(),
          parts[p].in(),
          p,
          p + 1};
}

// Each run of parts that lie together and that `joined(p)` allows to follow part p - 1.
template <typename Joined>
Weights weights_of(std::span<const LinearPart> parts, const Joined& joined) {
  check(parts.size() <= kMaxParts, "linear: {} parts, {} at most", parts.size(), kMaxParts);
  Weights weights;
  int64_t column = 0;
  for (size_t p = 0; p < parts.size(); ++p) {
    const int64_t O = parts[p].out();
    if (p > 0 && joined(p) && lie_together(parts[p - 1], parts[p])) {
      Weight& weight = weights.all[weights.count - 1];
      weight.O += O;
      weight.data.rows = weight.O;
      weight.end = p + 1;
    } else {
      weights.all[weights.count++] = weight_of(parts, p, column);
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

// y = x W^T + beta y + bias; bias (1, O) of y's dtype, or a null view.
void multiply_forward(const Engine& engine, const MatrixView& y, const MatrixView& x,
                      const Weight& w, float beta, const MatrixView& bias) {
  const bool as_it_is = w.data.dtype == x.dtype;
  const int64_t step = as_it_is ? w.O : converted_step(w.I, x.dtype);
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
  const int64_t step = as_it_is ? w.I : converted_step(w.O, dy.dtype);
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

// sum = drop(x) W^T (1 - dropout).
void multiply_dropped(const Engine& engine, const MatrixView& sum, const MatrixView& x,
                      const Weight& w, const Adapters& adapters, const Adapter& adapter) {
  for (int64_t c = 0; c < x.cols; c += kMaskCols) {
    const int64_t n = std::min(kMaskCols, x.cols - c);
    multiply_forward(engine, sum, adapters.dropped(adapter, x, c, n), w.inputs(c, n),
                     c == 0 ? 0.0f : 1.0f, {});
  }
}

// sum (N, I) f32 = ((a g + b) o dy) W + beta sum.
void multiply_scaled(const Engine& engine, const MatrixView& sum, const MatrixView& dy,
                     const Weight& w, Gain gain, float beta) {
  const Workspace::Scope scope(engine.workspace);
  const MatrixView scaled = engine.workspace.take(dy.dtype, dy.rows, kMaskCols);
  for (int64_t o = 0; o < w.O; o += kMaskCols) {
    const int64_t n = std::min(kMaskCols, w.O - o);
    scale_columns(engine.stream, scaled.col_range(0, n), dy.col_range(o, o + n), gain.from(o));
    multiply_backward(engine, sum, scaled.col_range(0, n), w.outputs(o, n), o == 0 ? beta : 1.0f);
  }
}

// y (=|+=) a DoRA part: x W^T + (g - 1) o (drop(x) W^T) + h (g o B)^T + bias, 512 outputs at a time
// in f32; bias (1, O) f32 or null.
void linear_with_gain(const Engine& engine, const MatrixView& y, const MatrixView& x,
                      const Weight& w, const Adapters& adapters, const Adapter& adapter,
                      const MatrixView& bias, Write write) {
  const Workspace::Scope scope(engine.workspace);
  const MatrixView sums = engine.workspace.take(DType::F32, x.rows, kMaskCols);
  const float keep = 1 / (1 - adapter.lora->dropout);
  for (int64_t o = 0; o < w.O; o += kMaskCols) {
    const int64_t n = std::min(kMaskCols, w.O - o);
    const MatrixView sum = sums.col_range(0, n);
    const Weight some = w.outputs(o, n);
    if (adapter.has_dropout()) {
      multiply_dropped(engine, sum, x, some, adapters, adapter);
      scale_columns(engine.stream, sum, sum, {adapter.gain + o, keep, -keep});
      multiply_forward(engine, sum, x, some, 1, {});
    } else {
      multiply_forward(engine, sum, x, some, 0, {});
      scale_columns(engine.stream, sum, sum, {adapter.gain + o});
    }
    engine.gemm.run({sum, adapters.h(adapter), Operand(adapter.b.row_range(o, o + n)).turned(),
                     adapter.padded, 1, 1, bias ? bias.col_range(o, o + n).data : nullptr});
    add_f32(engine.stream, y.col_range(o, o + n), sum, write);
  }
}

// sum (N, n) f32 = beta sum + outputs [o, o + n) of x W^T + h B^T + bias; bias (1, O) f32 or null.
void add_outputs(const Engine& engine, const MatrixView& sum, const MatrixView& x, const Weight& w,
                 int64_t o, const Adapters& adapters, float beta, const MatrixView& bias) {
  const int64_t n = sum.cols;
  multiply_forward(engine, sum, x, w.outputs(o, n), beta,
                   bias ? bias.col_range(o, o + n) : MatrixView());
  for (const Adapter& adapter : adapters.all()) {
    const int64_t first = adapter.column - w.column;
    const int64_t begin = std::max(o, first), end = std::min(o + n, first + adapter.O);
    if (begin >= end) continue;
    engine.gemm.run({sum.col_range(begin - o, end - o), adapters.h(adapter),
                     Operand(adapter.b.row_range(begin - first, end - first)).turned(),
                     adapter.padded, 1, 1});
  }
}

// y (=|+=) x W^T + h B^T + bias, kSumElements at a time in f32. cuBLASLt rounds a product to 16
// bits before it adds to it, and beside a larger sum so rounded a low-rank part would be lost while
// B is small.
void linear_in_f32(const Engine& engine, const MatrixView& y, const MatrixView& x,
                   const Weight& w, const Adapters& adapters, const MatrixView& bias, Write write) {
  if (y.dtype == DType::F32)
    return add_outputs(engine, y, x, w, 0, adapters, write == Write::Accumulate ? 1.0f : 0.0f,
                       bias);
  const Workspace::Scope scope(engine.workspace);
  const int64_t step = std::min(w.O, sum_columns(x.rows));
  const MatrixView sums = engine.workspace.take(DType::F32, x.rows, step);
  for (int64_t o = 0; o < w.O; o += step) {
    const int64_t n = std::min(step, w.O - o);
    const MatrixView sum = sums.col_range(0, n);
    add_outputs(engine, sum, x, w, o, adapters, 0, bias);
    add_f32(engine.stream, y.col_range(o, o + n), sum, write);
  }
}

// d_magnitude += sum over rows of dy o z / norm, z = drop(x) (W + scale B A)^T computed again.
void add_d_magnitude(const Engine& engine, const MatrixView& dy, const MatrixView& x,
                     const Weight& w, const Adapters& adapters, const Adapter& adapter) {
  const Workspace::Scope scope(engine.workspace);
  const MatrixView sums = engine.workspace.take(DType::F32, x.rows, kMaskCols);
  const LoraView& lora = *adapter.lora;
  for (int64_t o = 0; o < w.O; o += kMaskCols) {
    const int64_t n = std::min(kMaskCols, w.O - o);
    const MatrixView z = sums.col_range(0, n);
    if (adapter.has_dropout()) {
      multiply_dropped(engine, z, x, w.outputs(o, n), adapters, adapter);
      scale_columns(engine.stream, z, z, {adapter.gain + o, 0, 1 / (1 - lora.dropout)});
    } else {
      multiply_forward(engine, z, x, w.outputs(o, n), 0, {});
    }
    engine.gemm.run({z, adapters.h(adapter), Operand(adapter.b_alone.row_range(o, o + n)).turned(),
                     adapter.padded, 1, 1});
    add_column_products(engine.stream, lora.d_magnitude.as<float>() + o, dy.col_range(o, o + n), z,
                        lora.norm.as<float>() + o);
  }
}

// What backward to dx works on.
struct ToInput {
  const Engine& engine;
  MatrixView dx, dy;
  const Adapters& adapters;
  std::span<const LinearPart> parts;
  MatrixView dy_of(const Weight& w) const { return dy.col_range(w.column, w.column + w.O); }
};

// sum (N, n) f32 = the adapters' share of columns [c, c + n) of dx; false where there is none.
bool low_rank_columns(const ToInput& to, const MatrixView& sum, const MatrixView& product,
                      int64_t c) {
  const Engine& engine = to.engine;
  const int64_t n = sum.cols;
  Write write = Write::Overwrite;
  if (const MatrixView u = to.adapters.plain_u(); u.cols > 0) {
    engine.gemm.run({sum, u, to.adapters.plain_a().col_range(c, c + n), u.cols});
    write = Write::Accumulate;
  }
  for (const Adapter& adapter : to.adapters.all()) {
    if (!adapter.has_dropout()) continue;
    engine.gemm.run({product, to.adapters.u(adapter), to.adapters.a(adapter).col_range(c, c + n),
                     adapter.padded});
    if (adapter.gain != nullptr) {
      const Weight w = weight_of(to.parts, static_cast<size_t>(adapter.part), adapter.column);
      const float keep = 1 / (1 - adapter.lora->dropout);
      multiply_scaled(engine, product, to.dy_of(w), w.inputs(c, n), {adapter.gain, keep, -keep}, 1);
    }
    add_kept(engine.stream, sum, product, *adapter.lora, {c, to.dx.cols}, write);
    write = Write::Accumulate;
  }
  return write == Write::Accumulate;
}

// dx (=|+=) the adapters' share and that of `weights`, 512 columns at a time in f32, rounded once.
void add_columns(const ToInput& to, std::span<const Weight> weights, Write write) {
  const Engine& engine = to.engine;
  const Workspace::Scope scope(engine.workspace);
  const MatrixView sums = engine.workspace.take(DType::F32, to.dx.rows, kMaskCols),
                   products = engine.workspace.take(DType::F32, to.dx.rows, kMaskCols);
  for (int64_t c = 0; c < to.dx.cols; c += kMaskCols) {
    const int64_t n = std::min(kMaskCols, to.dx.cols - c);
    const MatrixView sum = sums.col_range(0, n);
    float beta = low_rank_columns(to, sum, products.col_range(0, n), c) ? 1.0f : 0.0f;
    for (const Weight& w : weights) {
      const Adapter* adapter = to.adapters.of_part(w.begin);
      if (adapter != nullptr && adapter->gain != nullptr && !adapter->has_dropout())
        multiply_scaled(engine, sum, to.dy_of(w), w.inputs(c, n), {adapter->gain}, beta);
      else
        multiply_backward(engine, sum, to.dy_of(w), w.inputs(c, n), beta);
      beta = 1;
    }
    add_f32(engine.stream, to.dx.col_range(c, c + n), sum, write);
  }
}

}  // namespace

void linear(const Engine& engine, MatrixView y, MatrixView x, std::span<const LinearPart> parts,
            Write write) {
  const Workspace::Scope scope(engine.workspace);
  Adapters adapters(engine, x, parts);
  adapters.forward(x);
  const bool any_gain = adapters.any_gain();
  const Weights weights = weights_of(parts, [&](size_t) { return !any_gain; });
  for (const Weight& w : weights.span()) {
    const MatrixView own = y.col_range(w.column, w.column + w.O);
    const bool adapted = std::any_of(
        parts.begin() + static_cast<std::ptrdiff_t>(w.begin),
        parts.begin() + static_cast<std::ptrdiff_t>(w.end),
        [](const LinearPart& part) { return part.lora != nullptr; });
    const bool is_one_product = !adapted && (write == Write::Overwrite || y.dtype == DType::F32);
    const MatrixView bias = bias_of(engine, w, parts, is_one_product ? y.dtype : DType::F32);
    const Adapter* adapter = adapters.of_part(w.begin);
    if (is_one_product)
      multiply_forward(engine, own, x, w, write == Write::Accumulate ? 1.0f : 0.0f, bias);
    else if (adapter != nullptr && adapter->gain != nullptr)
      linear_with_gain(engine, own, x, w, adapters, *adapter, bias, write);
    else
      linear_in_f32(engine, own, x, w, adapters, bias, write);
  }
}

void linear_backward(const Engine& engine, MatrixView dx, MatrixView dy, MatrixView x,
                     std::span<const LinearPart> parts, Write write) {
  const Workspace::Scope scope(engine.workspace);
  Adapters adapters(engine, x, parts);
  adapters.backward(dy, x);
  const bool any_gain = adapters.any_gain();
  for (const Adapter& adapter : adapters.all()) {
    if (adapter.gain == nullptr || !adapter.lora->d_magnitude) continue;
    const Weight w = weight_of(parts, static_cast<size_t>(adapter.part), adapter.column);
    add_d_magnitude(engine, dy.col_range(w.column, w.column + w.O), x, w, adapters, adapter);
  }
  if (!dx) return;
  const ToInput to = {engine, dx, dy, adapters, parts};
  const Weights weights = weights_of(parts, [&](size_t) { return !any_gain; });
  const bool adds_to_rounded = write == Write::Accumulate && dx.dtype != DType::F32;
  if (weights.count > 1 || any_gain || adds_to_rounded)
    return add_columns(to, weights.span(), write);
  if (adapters.any_dropout()) {
    add_columns(to, {}, write);
    write = Write::Accumulate;
  } else if (const MatrixView u = adapters.plain_u(); u.cols > 0) {
    engine.gemm.run(
        {dx, u, adapters.plain_a(), u.cols, 1, write == Write::Accumulate ? 1.0f : 0.0f});
    write = Write::Accumulate;
  }
  multiply_backward(engine, dx, dy, weights.all[0], write == Write::Accumulate ? 1.0f : 0.0f);
}

}  // namespace lema::cuda
