// Row tiles for h and u, column chunks for the gradients: each number has one writer, which sums in
// a fixed order.
#include "cpu/adapters.h"

#include <algorithm>

#include "core/error.h"
#include "cpu/convert.h"
#include "cpu/dropout.h"
#include "cpu/tile.h"

namespace lema::cpu {
namespace {

// Rows that backward finishes before it goes on: x and dy are still in the cache when the gradients
// need them.
constexpr int64_t kGradientRows = 256;
// Rows of one task of h and u: tasks enough for the threads in each such range.
constexpr int64_t kThinRows = 64;
static_assert(kGradientRows * kTileCols <= kTileRows * kMaskCols && kGradientRows <= kPanelRows);

// For the f32 matrices of an adapter.
Panel take_panel(Workspace& workspace, int64_t K, int64_t N, DType X) {
  return panel_for(workspace.take(panel_floats(K, N)), K, DType::F32, X);
}

// c (rows, R) = (m x) A^T for rows [row, row + rows) of x.
void project_down(float* c, const Stack& stack, const MatrixView& x, int64_t row, int64_t rows,
                  const Workspace::Lease& tiles) {
  const MatrixView tile = x.row_range(row, row + rows);
  if (stack.dropout == nullptr) {
    multiply(c, stack.stride, operand(tile), stack.a_transposed, rows, stack.R, x.cols,
             Write::Overwrite, x.dtype, tiles->product);
    return;
  }
  for (int64_t k = 0; k < x.cols; k += kMaskCols) {
    const int64_t n = std::min(kMaskCols, x.cols - k);
    widen_tile(tiles->masked, n, tile.col_range(k, k + n));
    drop(tiles->masked, n, rows, n, *stack.dropout, row, k, x.cols);
    multiply(c, stack.stride, operand(tiles->masked, n), stack.a_transposed.rows_from(k), rows,
             stack.R, n, k == 0 ? Write::Overwrite : Write::Accumulate, x.dtype, tiles->product);
  }
}

// tiles->thin (R, n) = thin^T wide for columns [begin, begin + n) of wide, whose row 0 is row `row`
// of the call; masked by `dropout` where it is not null. thin (N, R) f32, N at most kGradientRows.
void multiply_thin(const Operand& thin, int64_t R, const MatrixView& wide, int64_t row,
                   int64_t begin, int64_t n, const LoraView* dropout,
                   const Workspace::Lease& tiles) {
  const MatrixView block = wide.col_range(begin, begin + n);
  Operand source = operand(block);
  if (dropout != nullptr) {
    widen_tile(tiles->masked, n, block);
    drop(tiles->masked, n, block.rows, n, *dropout, row, begin, wide.cols);
    source = operand(tiles->masked, n);
  }
  const Panel empty = panel_for(tiles->panel, block.rows, source.dtype, wide.dtype);
  const Panel panel = panel_in_place(empty, source, n, wide.dtype);
  for (int64_t r = 0; r < R; r += kTileRows)
    multiply(tiles->thin + r * kTileCols, kTileCols, thin.from(0, r).transposed(), panel,
             std::min(kTileRows, R - r), n, block.rows, Write::Overwrite, wide.dtype,
             tiles->product);
}

}  // namespace

float* take_gain(Workspace& workspace, const LoraView& lora) {
  const int64_t O = lora.magnitude.shape[0];
  float* gain = workspace.take(O);
  const float *magnitude = lora.magnitude.as<float>(), *norm = lora.norm.as<float>();
  for (int64_t o = 0; o < O; ++o) gain[o] = magnitude[o] / norm[o];
  return gain;
}

Adapters::Adapters(std::span<const LinearPart> parts) {
  int64_t column = 0;
  for (size_t p = 0; p < parts.size(); ++p) {
    if (const LoraView* lora = parts[p].lora) {
      check(adapter_count_ < adapters_.size(), "linear: more than {} adapters in one call",
            kMaxAdapters);
      Adapter& adapter = adapters_[adapter_count_++];
      adapter.lora = lora;
      adapter.part = static_cast<int64_t>(p);
      adapter.column = column;
      adapter.O = parts[p].out();
      adapter.R = lora->a.shape[0];
      // The open stack is the last one without dropout.
      size_t s = 0;
      while (s < stack_count_ && (stacks_[s].dropout != nullptr || lora->dropout > 0)) ++s;
      if (s == stack_count_) stacks_[stack_count_++].dropout = lora->dropout > 0 ? lora : nullptr;
      adapter.stack = static_cast<int64_t>(s);
      adapter.offset = stacks_[s].R;
      stacks_[s].R += adapter.R;
    }
    column += parts[p].out();
  }
  for (size_t s = 0; s < stack_count_; ++s) stacks_[s].stride = round_up(stacks_[s].R, kLane);
}

const Adapter* Adapters::of_part(int64_t part) const {
  for (const Adapter& adapter : all())
    if (adapter.part == part) return &adapter;
  return nullptr;
}

const Adapter& Adapters::only_of(const Stack& stack) const {
  for (const Adapter& adapter : all())
    if (adapter.lora == stack.dropout) return adapter;
  fail(ErrorCode::Internal, "linear: a stack without its adapter");
}

const Stack* Adapters::only_plain_stack() const {
  if (stack_count_ != 1 || stacks_[0].dropout != nullptr) return nullptr;
  for (const Adapter& adapter : all())
    if (adapter.gain != nullptr) return nullptr;
  return &stacks_[0];
}

Operand Adapters::h(const Adapter& adapter, int64_t row) const {
  const Stack& stack = stacks()[static_cast<size_t>(adapter.stack)];
  return operand(stack.h + row * stack.stride + adapter.offset, stack.stride);
}

void Adapters::take_stacks(Workspace& workspace, const MatrixView& x, bool with_u) {
  for (size_t s = 0; s < stack_count_; ++s) {
    Stack& stack = stacks_[s];
    stack.rows = workspace.take(stack.R * x.cols);
    stack.h = workspace.take(x.rows * stack.stride);
    if (with_u) stack.u = workspace.take(x.rows * stack.stride);
    stack.a_transposed = take_panel(workspace, x.cols, stack.R, x.dtype);
    for (const Adapter& adapter : all())
      if (adapter.stack == static_cast<int64_t>(s))
        std::copy_n(adapter.lora->a.as<float>(), adapter.R * x.cols,
                    stack.rows + adapter.offset * x.cols);
    pack_panel(stack.a_transposed, operand(stack.rows, x.cols).transposed(), stack.R, x.dtype);
  }
}

void Adapters::take_gains(Workspace& workspace) {
  for (Adapter& adapter : std::span(adapters_.data(), adapter_count_)) {
    const float* b = adapter.lora->b.as<float>();
    adapter.b = b;
    if (!adapter.lora->magnitude) continue;
    adapter.gain = take_gain(workspace, *adapter.lora);
    float* scaled = workspace.take(adapter.O * adapter.R);
    for (int64_t o = 0; o < adapter.O; ++o)
      for (int64_t i = o * adapter.R; i < (o + 1) * adapter.R; ++i)
        scaled[i] = adapter.gain[o] * b[i];
    adapter.b = scaled;
  }
}

void Adapters::products(ThreadPool& pool, Workspace& workspace, const MatrixView& x,
                        const MatrixView& dy, Rows range) const {
  run(pool, tile_count(range.end - range.begin, kThinRows), [&](int64_t t) {
    const Workspace::Lease tiles(workspace);
    const int64_t row = range.begin + t * kThinRows, rows = std::min(kThinRows, range.end - row);
    for (const Stack& stack : stacks())
      project_down(stack.h + row * stack.stride, stack, x, row, rows, tiles);
    for (const Adapter& adapter : all()) {
      const Stack& stack = stacks()[static_cast<size_t>(adapter.stack)];
      const int64_t at = row * stack.stride + adapter.offset;
      scale_tile(stack.h + at, stack.stride, rows, adapter.R, adapter.factor());
      if (!dy) continue;
      const MatrixView dy_part =
          dy.row_range(row, row + rows).col_range(adapter.column, adapter.column + adapter.O);
      multiply(stack.u + at, stack.stride, operand(dy_part), adapter.b_panel, rows, adapter.R,
               adapter.O, Write::Overwrite, x.dtype, tiles->product);
      scale_tile(stack.u + at, stack.stride, rows, adapter.R, adapter.factor());
    }
  });
}

void Adapters::forward(ThreadPool& pool, Workspace& workspace, const MatrixView& x) {
  if (adapter_count_ == 0) return;
  take_stacks(workspace, x, false);
  take_gains(workspace);
  products(pool, workspace, x, {}, {0, x.rows});
}

void Adapters::backward(ThreadPool& pool, Workspace& workspace, const MatrixView& dy,
                        const MatrixView& x) {
  if (adapter_count_ == 0) return;
  take_stacks(workspace, x, true);
  take_gains(workspace);
  for (Adapter& adapter : std::span(adapters_.data(), adapter_count_)) {
    adapter.b_panel = take_panel(workspace, adapter.O, adapter.R, x.dtype);
    pack_panel(adapter.b_panel, operand(adapter.b, adapter.R), adapter.R, x.dtype);
  }
  for (int64_t row = 0; row < x.rows; row += kGradientRows) {
    const Rows range = {row, std::min(x.rows, row + kGradientRows)};
    products(pool, workspace, x, dy, range);
    gradients(pool, workspace, dy, x, range);
  }
}

// Rows [begin, begin + n) of dB (O, R) += dy^T h, computed as its transpose.
void Adapters::add_db(const Adapter& adapter, const MatrixView& dy, Rows range, int64_t begin,
                      int64_t n, const Workspace::Lease& tiles) const {
  if (!adapter.lora->db) return;
  multiply_thin(h(adapter, range.begin), adapter.R, dy.row_range(range.begin, range.end),
                range.begin, adapter.column + begin, n, nullptr, tiles);
  float* db = adapter.lora->db.as<float>() + begin * adapter.R;
  for (int64_t i = 0; i < n; ++i) {
    const float gain = adapter.gain ? adapter.gain[begin + i] : 1;
    for (int64_t r = 0; r < adapter.R; ++r)
      db[i * adapter.R + r] += gain * tiles->thin[r * kTileCols + i];
  }
}

// Columns [begin, begin + n) of every dA (R, I) of a stack += u^T (m x).
void Adapters::add_da(int64_t index, const MatrixView& x, Rows range, int64_t begin, int64_t n,
                      const Workspace::Lease& tiles) const {
  const Stack& stack = stacks()[static_cast<size_t>(index)];
  bool wanted = false;
  for (const Adapter& adapter : all()) wanted |= adapter.stack == index && adapter.lora->da;
  if (!wanted) return;
  multiply_thin(operand(stack.u + range.begin * stack.stride, stack.stride), stack.R,
                x.row_range(range.begin, range.end), range.begin, begin, n, stack.dropout, tiles);
  for (const Adapter& adapter : all()) {
    if (adapter.stack != index || !adapter.lora->da) continue;
    float* da = adapter.lora->da.as<float>() + begin;
    for (int64_t r = 0; r < adapter.R; ++r)
      add_row(da + r * x.cols, tiles->thin + (adapter.offset + r) * kTileCols, n);
  }
}

void Adapters::gradients(ThreadPool& pool, Workspace& workspace, const MatrixView& dy,
                         const MatrixView& x, Rows range) const {
  const int64_t a_tasks = tile_count(x.cols, kTileCols);
  int64_t tasks = a_tasks * static_cast<int64_t>(stack_count_);
  for (const Adapter& adapter : all()) tasks += tile_count(adapter.O, kTileCols);
  run(pool, tasks, [&](int64_t task) {
    const Workspace::Lease tiles(workspace);
    const int64_t stack = task / a_tasks;
    if (stack < static_cast<int64_t>(stack_count_)) {
      const int64_t begin = task % a_tasks * kTileCols;
      return add_da(stack, x, range, begin, std::min(kTileCols, x.cols - begin), tiles);
    }
    task -= a_tasks * static_cast<int64_t>(stack_count_);
    for (const Adapter& adapter : all()) {
      const int64_t b_tasks = tile_count(adapter.O, kTileCols), begin = task * kTileCols;
      if (task < b_tasks)
        return add_db(adapter, dy, range, begin, std::min(kTileCols, adapter.O - begin), tiles);
      task -= b_tasks;
    }
  });
}

}  // namespace lema::cpu
