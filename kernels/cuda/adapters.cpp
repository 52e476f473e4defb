// Stacks, thin products and the adapters' gradients, each a GEMM with f32 sums.
#include "cuda/adapters.h"

#include <algorithm>

#include "core/error.h"
#include "cuda/dora.h"
#include "cuda/dropout.h"
#include "cuda/elementwise.h"

namespace lema::cuda {
namespace {

MatrixView matrix(const TensorView& t) { return {t.data, t.dtype, t.shape[0], t.shape[1]}; }

}  // namespace

Adapters::Adapters(const Engine& engine, const MatrixView& x, std::span<const LinearPart> parts)
    : engine_(engine) {
  for (const bool dropout : {false, true}) {
    int64_t column = 0;
    for (size_t p = 0; p < parts.size(); column += parts[p].out(), ++p) {
      const LoraView* lora = parts[p].lora;
      if (lora == nullptr || (lora->dropout > 0) != dropout) continue;
      check(count_ < adapters_.size(), "linear: more than {} adapters in one call", kMaxAdapters);
      const int64_t R = lora->a.shape[0];
      Adapter& adapter = adapters_[count_++];
      adapter.lora = lora;
      adapter.part = static_cast<int64_t>(p), adapter.column = column;
      adapter.O = parts[p].out(), adapter.R = R, adapter.padded = round_up(R, 8);
      adapter.offset = total_;
      total_ += round_up(R, 8);
    }
    if (!dropout) plain_ = total_;
  }
  if (count_ == 0) return;
  Workspace& workspace = engine_.workspace;
  a_ = workspace.take(x.dtype, total_, x.cols);
  h_ = workspace.take(x.dtype, x.rows, total_);
  u_ = workspace.take(x.dtype, x.rows, total_);
  sums_ = workspace.take(DType::F32, x.rows, total_);
  if (plain_ < total_) masked_ = workspace.take(x.dtype, x.rows, kMaskCols);
  for (Adapter& adapter : std::span(adapters_.data(), count_)) round_operands(adapter, x.dtype);
}

void Adapters::round_operands(Adapter& adapter, DType X) {
  const LoraView& lora = *adapter.lora;
  adapter.b = engine_.workspace.take(X, adapter.O, adapter.padded);
  convert(engine_.stream, adapter.b, matrix(lora.b));
  if (lora.magnitude) {
    adapter.b_alone = adapter.b;
    adapter.b = engine_.workspace.take(X, adapter.O, adapter.padded);
    auto* gain = static_cast<float*>(engine_.workspace.take(DType::F32, 1, adapter.O).data);
    gains(engine_.stream, gain, lora.magnitude, lora.norm);
    scale_rows(engine_.stream, adapter.b, matrix(lora.b), gain);
    adapter.gain = gain;
  }
  const MatrixView rows = a(adapter);
  convert(engine_.stream, rows.row_range(0, adapter.R), matrix(lora.a));
  if (adapter.padded == adapter.R) return;
  const MatrixView rest = rows.row_range(adapter.R, adapter.padded);
  fill(engine_.stream, {rest.data, rest.dtype, {rest.rows * rest.stride}}, 0);
}

bool Adapters::any_gain() const {
  for (const Adapter& adapter : all())
    if (adapter.gain != nullptr) return true;
  return false;
}

MatrixView Adapters::dropped(const Adapter& adapter, const MatrixView& x, int64_t c,
                             int64_t n) const {
  const MatrixView masked = masked_.col_range(0, n);
  drop(engine_.stream, masked, x.col_range(c, c + n), *adapter.lora, {c, x.cols});
  return masked;
}

const Adapter* Adapters::of_part(size_t part) const {
  for (const Adapter& adapter : all())
    if (adapter.part == static_cast<int64_t>(part)) return &adapter;
  return nullptr;
}

void Adapters::forward(const MatrixView& x) {
  if (count_ == 0) return;
  if (plain_ > 0)
    engine_.gemm.run({sums_.col_range(0, plain_), x, Operand(plain_a()).turned(), x.cols});
  for (const Adapter& adapter : all()) {
    const MatrixView sum = columns_of(sums_, adapter);
    for (int64_t c = 0; adapter.has_dropout() && c < x.cols; c += kMaskCols) {
      const int64_t n = std::min(kMaskCols, x.cols - c);
      const MatrixView masked = dropped(adapter, x, c, n);
      engine_.gemm.run({sum, masked, Operand(a(adapter).col_range(c, c + n)).turned(), n, 1,
                        c == 0 ? 0.0f : 1.0f});
    }
    scale(engine_.stream, h(adapter), sum, adapter.factor());
  }
}

void Adapters::backward(const MatrixView& dy, const MatrixView& x) {
  forward(x);
  for (const Adapter& adapter : all()) {
    const MatrixView dy_part = dy.col_range(adapter.column, adapter.column + adapter.O);
    engine_.gemm.run({u(adapter), dy_part, adapter.b, adapter.O, adapter.factor()});
    if (adapter.lora->da) add_gradients(adapter, dy_part, x);
  }
}

void Adapters::add_db(const Adapter& adapter, const MatrixView& dy) {
  const int64_t N = dy.rows, R = adapter.R;
  const MatrixView db = matrix(adapter.lora->db), h_own = h(adapter).col_range(0, R);
  if (adapter.gain == nullptr) return engine_.gemm.run({db, Operand(dy).turned(), h_own, N, 1, 1});
  const Workspace::Scope scope(engine_.workspace);
  const MatrixView product = engine_.workspace.take(DType::F32, adapter.O, R);
  engine_.gemm.run({product, Operand(dy).turned(), h_own, N});
  add_scaled_rows(engine_.stream, db, product, adapter.gain);
}

void Adapters::add_gradients(const Adapter& adapter, const MatrixView& dy, const MatrixView& x) {
  const int64_t N = x.rows, R = adapter.R;
  add_db(adapter, dy);
  const MatrixView da = matrix(adapter.lora->da);
  const Operand u_transposed = Operand(u(adapter).col_range(0, R)).turned();
  if (!adapter.has_dropout()) return engine_.gemm.run({da, u_transposed, x, N, 1, 1});
  for (int64_t c = 0; c < x.cols; c += kMaskCols) {
    const int64_t n = std::min(kMaskCols, x.cols - c);
    engine_.gemm.run({da.col_range(c, c + n), u_transposed, dropped(adapter, x, c, n), N, 1, 1});
  }
}

}  // namespace lema::cuda
