// Linear forward and backward: low-rank products first (adapters.h), then output tiles of up to
// 1,024 rows by 192 columns. A tile packs its share of the weight block by block into the cache and
// is stored once, rounded once.
#include "cpu/linear.h"

#include <algorithm>

#include "core/error.h"
#include "cpu/adapters.h"
#include "cpu/convert.h"
#include "cpu/dropout.h"
#include "cpu/matvec.h"
#include "cpu/tile.h"

namespace lema::cpu {
namespace {

// How an output (N, cols) is cut into tiles: by its size alone, into at least eight where it is
// large enough.
struct Tiling {
  int64_t N, cols, chunk = kTileCols;
  Tiling(int64_t N_, int64_t cols_) : N(N_), cols(cols_) {
    while (chunk > kSliver && row_blocks() * chunks() < 8) chunk /= 2;
  }
  int64_t row_blocks() const { return tile_count(N, kBlockRows); }
  int64_t chunks() const { return tile_count(cols, chunk); }
  int64_t count() const { return row_blocks() * chunks(); }
};

struct Tile {
  int64_t row, rows, begin, n;  // columns [begin, begin + n)
};
Tile tile_at(const Tiling& tiling, int64_t index) {
  const int64_t row = index % tiling.row_blocks() * kBlockRows,
                begin = index / tiling.row_blocks() * tiling.chunk;
  return {row, std::min(kBlockRows, tiling.N - row), begin,
          std::min(tiling.chunk, tiling.cols - begin)};
}

// out (rows, n) (=|+=) A (rows, K) B (K, n): B is packed once for all rows.
void multiply_tile(const Workspace::Lease& tiles, const Operand& a, const Operand& b, int64_t rows,
                   int64_t n, int64_t K, Write write, DType X) {
  for (int64_t k = 0; k < K; k += kPanelRows) {
    const int64_t kn = std::min(kPanelRows, K - k);
    const Panel panel = {tiles->panel, kn};
    pack_panel(panel, b.from(k, 0), n, X);
    for (int64_t row = 0; row < rows; row += kTileRows)
      multiply(tiles->out + row * kTileCols, kTileCols, a.from(row, k), panel,
               std::min(kTileRows, rows - row), n, kn, k == 0 ? write : Write::Accumulate, X,
               tiles->product);
  }
}

// W^T (I, O) or W (O, I) as it lies in memory.
Operand weight_operand(const LinearPart& part, bool as_transpose) {
  const Operand w = operand(part.weight);
  return part.transposed == as_transpose ? w : w.transposed();
}

// Few rows without dropout: every weight, the adapters' included, is read once and multiplied where
// it lies.
void linear_few(ThreadPool& pool, Workspace& workspace, const MatrixView& y, const MatrixView& x,
                std::span<const LinearPart> parts, Write write) {
  const DType X = x.dtype;
  const int64_t N = x.rows, I = x.cols;
  float* input = workspace.take(N * I);
  widen_tile(input, I, x);
  int64_t column = 0;
  for (const LinearPart& part : parts) {
    const int64_t O = part.out(), taken = workspace.taken();
    float* out = workspace.take(N * O);
    multiply_few(pool, out, O, input, I, weight_operand(part, true), N, O, I, Write::Overwrite, X);
    if (const LoraView* lora = part.lora) {
      const int64_t R = lora->a.shape[0];
      float* h = workspace.take(N * R);
      multiply_few(pool, h, R, input, I, operand(lora->a).transposed(), N, R, I, Write::Overwrite,
                   X);
      scale_tile(h, R, N, R, lora->scale);
      round_in_place(h, X, N * R);
      multiply_few(pool, out, O, h, R, operand(lora->b).transposed(), N, O, R, Write::Accumulate,
                   X);
    }
    store_tile(y.col_range(column, column + O), out, O, part.bias, 0, write);
    column += O;
    workspace.release_to(taken);
  }
}

bool has_dropout(std::span<const LinearPart> parts) {
  for (const LinearPart& part : parts)
    if (part.lora != nullptr && part.lora->dropout > 0) return true;
  return false;
}

void forward_part(ThreadPool& pool, Workspace& workspace, const MatrixView& y, const MatrixView& x,
                  const LinearPart& part, const Adapters& adapters, const Adapter* adapter,
                  Write write) {
  const Tiling tiling(x.rows, part.out());
  run(pool, tiling.count(), [&](int64_t i) {
    const Workspace::Lease tiles(workspace);
    const Tile t = tile_at(tiling, i);
    multiply_tile(tiles, operand(x).from(t.row, 0), weight_operand(part, true).from(0, t.begin),
                  t.rows, t.n, x.cols, Write::Overwrite, x.dtype);
    if (adapter != nullptr)
      multiply_tile(tiles, adapters.h(*adapter, t.row),
                    operand(adapter->lora->b).transposed().from(0, t.begin), t.rows, t.n,
                    adapter->R, Write::Accumulate, x.dtype);
    store_tile(y.row_range(t.row, t.row + t.rows).col_range(t.begin, t.begin + t.n), tiles->out,
               kTileCols, part.bias, t.begin, write);
  });
}

// out += m (u A) of one stack.
void add_stack(const Workspace::Lease& tiles, const Stack& stack, const Tile& t, int64_t I,
               DType X) {
  const Operand a = operand(stack.rows, I).from(0, t.begin);
  const Operand u = operand(stack.u + t.row * stack.stride, stack.stride);
  if (stack.dropout == nullptr)
    return multiply_tile(tiles, u, a, t.rows, t.n, stack.R, Write::Accumulate, X);
  const Panel panel = {tiles->panel, stack.R};
  pack_panel(panel, a, t.n, X);
  for (int64_t row = 0; row < t.rows; row += kTileRows) {
    const int64_t rows = std::min(kTileRows, t.rows - row);
    multiply(tiles->second, kTileCols, u.from(row, 0), panel, rows, t.n, stack.R, Write::Overwrite,
             X, tiles->product);
    drop(tiles->second, kTileCols, rows, t.n, *stack.dropout, t.row + row, t.begin, I);
    for (int64_t r = 0; r < rows; ++r)
      add_row(tiles->out + (row + r) * kTileCols, tiles->second + r * kTileCols, t.n);
  }
}

void backward_to_input(ThreadPool& pool, Workspace& workspace, const MatrixView& dx,
                       const MatrixView& dy, const Adapters& adapters,
                       std::span<const LinearPart> parts, Write write) {
  const Tiling tiling(dx.rows, dx.cols);
  run(pool, tiling.count(), [&](int64_t i) {
    const Workspace::Lease tiles(workspace);
    const Tile t = tile_at(tiling, i);
    int64_t column = 0;
    for (const LinearPart& part : parts) {
      multiply_tile(tiles, operand(dy).from(t.row, column),
                    weight_operand(part, false).from(0, t.begin), t.rows, t.n, part.out(),
                    column == 0 ? Write::Overwrite : Write::Accumulate, dy.dtype);
      column += part.out();
    }
    for (const Stack& stack : adapters.stacks()) add_stack(tiles, stack, t, dx.cols, dy.dtype);
    store_tile(dx.row_range(t.row, t.row + t.rows).col_range(t.begin, t.begin + t.n), tiles->out,
               kTileCols, {}, 0, write);
  });
}

}  // namespace

void linear(ThreadPool& pool, Workspace& workspace, MatrixView y, MatrixView x,
            std::span<const LinearPart> parts, Write write) {
  if (x.rows <= kFewRows && !has_dropout(parts)) {
    linear_few(pool, workspace, y, x, parts, write);
  } else {
    Adapters adapters(parts);
    adapters.forward(pool, workspace, x);
    int64_t column = 0;
    for (size_t p = 0; p < parts.size(); ++p) {
      const int64_t O = parts[p].out();
      forward_part(pool, workspace, y.col_range(column, column + O), x, parts[p], adapters,
                   adapters.of_part(static_cast<int64_t>(p)), write);
      column += O;
    }
  }
  workspace.release_to(0);
}

void linear_backward(ThreadPool& pool, Workspace& workspace, MatrixView dx, MatrixView dy,
                     MatrixView x, std::span<const LinearPart> parts, Write write) {
  Adapters adapters(parts);
  adapters.backward(pool, workspace, dy, x);
  if (dx) backward_to_input(pool, workspace, dx, dy, adapters, parts, write);
  workspace.release_to(0);
}

}  // namespace lema::cpu
