// Linear forward and backward: low-rank products first (adapters.h), then output tiles. Weights are packed once per call, in groups
// of column chunks that fit the arena; a tile is one row tile by one chunk, summed in f32 and stored once.
#include "cpu/linear.h"

#include <algorithm>

#include "core/error.h"
#include "cpu/adapters.h"
#include "cpu/dropout.h"
#include "cpu/tile.h"

namespace lema::cpu {
namespace {

// Output columns in chunks of at most kTileCols, each inside one part.
struct Chunk {
  int64_t part = 0, part_column = 0;  // of y
  int64_t begin = 0, n = 0;           // columns inside the part
};

Chunk chunk_at(std::span<const LinearPart> parts, int64_t index, int64_t chunk_cols) {
  Chunk chunk;
  for (const LinearPart& part : parts) {
    const int64_t count = tile_count(part.out(), chunk_cols);
    if (index < count) {
      chunk.begin = index * chunk_cols;
      chunk.n = std::min(chunk_cols, part.out() - chunk.begin);
      return chunk;
    }
    index -= count;
    ++chunk.part;
    chunk.part_column += part.out();
  }
  fail(ErrorCode::Internal, "linear: no chunk {}", index);
}

// W^T (I, O) or W (O, I) as it lies in memory.
Operand weight_operand(const LinearPart& part, bool as_transpose) {
  const Operand w = operand(part.weight);
  return part.transposed == as_transpose ? w : w.transposed();
}

// Columns of a chunk whose panel has K rows: kTileCols, or what the arena can hold.
int64_t chunk_columns(const Workspace& workspace, int64_t K) {
  const int64_t fit = workspace.available() / K / kSliver * kSliver;
  check(fit > 0, "linear: CPU scratch of {} floats holds no panel of {} rows; are the limits too low?",
        workspace.available(), K);
  return std::min(kTileCols, fit);
}

}  // namespace

void linear(ThreadPool& pool, Workspace& workspace, MatrixView y, MatrixView x, std::span<const LinearPart> parts,
            Write write) {
  const DType X = x.dtype;
  const int64_t I = x.cols, row_tiles = tile_count(x.rows, kTileRows);
  Adapters adapters(parts);
  adapters.forward(pool, workspace, x);
  const int64_t chunk_cols = chunk_columns(workspace, I), chunk_floats = panel_floats(I, chunk_cols);
  int64_t chunks = 0;
  for (const LinearPart& part : parts) chunks += tile_count(part.out(), chunk_cols);
  const int64_t group = std::min(chunks, workspace.available() / chunk_floats);
  const Panel panels = {workspace.take(group * chunk_floats), I};
  const int64_t slivers = chunk_cols / kSliver;

  for (int64_t first = 0; first < chunks; first += group) {
    const int64_t count = std::min(group, chunks - first);
    run(pool, count * slivers, [&](int64_t i) {
      const Chunk chunk = chunk_at(parts, first + i / slivers, chunk_cols);
      const int64_t begin = i % slivers * kSliver;
      if (begin >= chunk.n) return;
      const Operand w = weight_operand(parts[static_cast<size_t>(chunk.part)], true).from(0, chunk.begin + begin);
      pack_panel(panels.columns_from(i * kSliver), w, std::min(kSliver, chunk.n - begin), X);
    });
    run(pool, count * row_tiles, [&](int64_t i) {
      const Workspace::Lease tiles(workspace);
      const Chunk chunk = chunk_at(parts, first + i / row_tiles, chunk_cols);
      const int64_t row = i % row_tiles * kTileRows, rows = std::min(kTileRows, x.rows - row);
      const Panel panel = panels.columns_from(i / row_tiles * chunk_cols);
      multiply(tiles->out, chunk_cols, operand(x.row_range(row, row + rows)), panel, rows, chunk.n, I, Write::Overwrite,
               X, tiles->product);
      if (const Adapter* adapter = adapters.of_part(chunk.part))
        multiply(tiles->out, chunk_cols, adapters.h(*adapter, row), adapter->b_transposed.columns_from(chunk.begin),
                 rows, chunk.n, adapter->R, Write::Accumulate, X, tiles->product);
      const int64_t column = chunk.part_column + chunk.begin;
      store_tile(y.row_range(row, row + rows).col_range(column, column + chunk.n), tiles->out, chunk_cols,
                 parts[static_cast<size_t>(chunk.part)].bias, chunk.begin, write);
    });
  }
  workspace.release();
}

namespace {

// One tile of dx: rows of dy, from `row` on, by columns [begin, begin + n) of the I; left in tiles->out.
void backward_tile(const Workspace::Lease& tiles, int64_t chunk_cols, Panel panel, const Adapters& adapters,
                   std::span<const LinearPart> parts, const MatrixView& dy, int64_t row, int64_t begin, int64_t n,
                   int64_t I) {
  int64_t column = 0;
  for (const LinearPart& part : parts) {
    const int64_t O = part.out();
    panel.K = O;
    multiply(tiles->out, chunk_cols, operand(dy.col_range(column, column + O)), panel, dy.rows, n, O,
             column == 0 ? Write::Overwrite : Write::Accumulate, dy.dtype, tiles->product);
    panel.data += panel_floats(O, chunk_cols);
    column += O;
  }
  for (const Stack& stack : adapters.stacks()) {
    float* out = stack.dropout ? tiles->second : tiles->out;
    multiply(out, chunk_cols, operand(stack.u + row * stack.stride, stack.stride), stack.a.columns_from(begin), dy.rows,
             n, stack.R, stack.dropout ? Write::Overwrite : Write::Accumulate, dy.dtype, tiles->product);
    if (!stack.dropout) continue;
    drop(out, chunk_cols, dy.rows, n, *stack.dropout, row, begin, I);
    for (int64_t i = 0; i < dy.rows; ++i) add_row(tiles->out + i * chunk_cols, out + i * chunk_cols, n);
  }
}

void backward_to_input(ThreadPool& pool, Workspace& workspace, const MatrixView& dx, const MatrixView& dy,
                       const Adapters& adapters, std::span<const LinearPart> parts, Write write) {
  const DType X = dy.dtype;
  const int64_t I = dx.cols, K = dy.cols, row_tiles = tile_count(dx.rows, kTileRows);
  const int64_t chunk_cols = chunk_columns(workspace, K), chunk_floats = panel_floats(K, chunk_cols);
  const int64_t chunks = tile_count(I, chunk_cols), slivers = chunk_cols / kSliver;
  const int64_t group = std::min(chunks, workspace.available() / chunk_floats);
  float* panels = workspace.take(group * chunk_floats);  // of each chunk: the parts' panels one after the other

  for (int64_t first = 0; first < chunks; first += group) {
    const int64_t count = std::min(group, chunks - first);
    run(pool, count * slivers, [&](int64_t i) {
      const int64_t begin = (first + i / slivers) * chunk_cols + i % slivers * kSliver;
      if (begin >= I) return;
      float* data = panels + i / slivers * chunk_floats;
      for (const LinearPart& part : parts) {
        const Panel panel = Panel{data, part.out()}.columns_from(i % slivers * kSliver);
        pack_panel(panel, weight_operand(part, false).from(0, begin), std::min(kSliver, I - begin), X);
        data += panel_floats(part.out(), chunk_cols);
      }
    });
    run(pool, count * row_tiles, [&](int64_t i) {
      const Workspace::Lease tiles(workspace);
      const int64_t begin = (first + i / row_tiles) * chunk_cols, n = std::min(chunk_cols, I - begin);
      const int64_t row = i % row_tiles * kTileRows, rows = std::min(kTileRows, dx.rows - row);
      backward_tile(tiles, chunk_cols, {panels + i / row_tiles * chunk_floats}, adapters, parts,
                    dy.row_range(row, row + rows), row, begin, n, I);
      store_tile(dx.row_range(row, row + rows).col_range(begin, begin + n), tiles->out, chunk_cols, {}, 0, write);
    });
  }
}

}  // namespace

void linear_backward(ThreadPool& pool, Workspace& workspace, MatrixView dx, MatrixView dy, MatrixView x,
                     std::span<const LinearPart> parts, Write write) {
  Adapters adapters(parts);
  adapters.backward(pool, workspace, dy, x);
  if (dx) backward_to_input(pool, workspace, dx, dy, adapters, parts, write);
  workspace.release();
}

}  // namespace lema::cpu
