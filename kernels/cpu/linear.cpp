// Linear forward and backward: low-rank products first, then output tiles. Weights are packed once per call, in groups
// of column chunks that fit the arena; a tile is one row tile by one chunk, summed in f32 and stored once.
#include "cpu/linear.h"

#include <algorithm>
#include <array>
#include <functional>

#include "core/error.h"
#include "cpu/convert.h"
#include "cpu/dropout.h"
#include "cpu/tile.h"

namespace lema::cpu {
namespace {

// What one adapter needs during a call. With f = scale / (1 - dropout) and m the dropout mask:
// h = f (m x) A^T, so y += h B^T and dB += dy^T h; u = f dy B, so dA += u^T (m x) and dx += m (u A).
struct Adapter {
  const LoraView* lora = nullptr;
  int64_t part = 0, column = 0;   // which part, and where it begins in y
  int64_t I = 0, O = 0, R = 0;
  int64_t stride = 0;             // of h and u, the padded rank
  float *h = nullptr, *u = nullptr;  // (N, R) f32
  Panel a_transposed, b_transposed;  // (I, R), (R, O): for h, for y
  Panel a, b;                        // (R, I), (O, R): for dx, for u
  Panel h_panel, u_panel;            // (N, R): for dB, for dA

  float factor() const { return lora->scale / (1 - lora->dropout); }
};

struct Adapters {
  std::array<Adapter, kMaxAdapters> all;
  size_t count = 0;
  std::span<Adapter> span() { return {all.data(), count}; }
  const Adapter* of_part(int64_t part) const {
    for (size_t i = 0; i < count; ++i)
      if (all[i].part == part) return &all[i];
    return nullptr;
  }
};

Adapters find_adapters(std::span<const LinearPart> parts) {
  Adapters adapters;
  int64_t column = 0;
  for (size_t p = 0; p < parts.size(); ++p) {
    if (const LoraView* lora = parts[p].lora) {
      check(adapters.count < adapters.all.size(), "linear: more than {} adapters in one call", kMaxAdapters);
      Adapter& adapter = adapters.all[adapters.count++];
      adapter.lora = lora;
      adapter.part = static_cast<int64_t>(p);
      adapter.column = column;
      adapter.I = parts[p].in();
      adapter.O = parts[p].out();
      adapter.R = lora->a.shape[0];
      adapter.stride = round_up(adapter.R, kLane);
    }
    column += parts[p].out();
  }
  return adapters;
}

Panel take_panel(Workspace& workspace, int64_t K, int64_t N) { return {workspace.take(panel_floats(K, N)), K}; }

// c (rows, R) = (m x) A^T for rows [row, row + rows) of x, where m masks nothing without dropout.
void project_down(float* c, const Adapter& adapter, const MatrixView& x, int64_t row, int64_t rows,
                  const Workspace::Lease& tiles) {
  const MatrixView tile = x.row_range(row, row + rows);
  if (adapter.lora->dropout == 0) {
    multiply(c, adapter.stride, operand(tile), adapter.a_transposed, rows, adapter.R, x.cols, Write::Overwrite, x.dtype,
             tiles->product);
    return;
  }
  for (int64_t k = 0; k < x.cols; k += kMaskCols) {
    const int64_t n = std::min(kMaskCols, x.cols - k);
    widen_tile(tiles->masked, n, tile.col_range(k, k + n));
    drop(tiles->masked, n, rows, n, *adapter.lora, row, k, x.cols);
    multiply(c, adapter.stride, operand(tiles->masked, n), adapter.a_transposed.rows_from(k), rows, adapter.R, n,
             k == 0 ? Write::Overwrite : Write::Accumulate, x.dtype, tiles->product);
  }
}

// h of every adapter and, when `dy` is given, u.
void low_rank_products(ThreadPool& pool, Workspace& workspace, Adapters& adapters, const MatrixView& x,
                       const MatrixView& dy) {
  for (Adapter& adapter : adapters.span()) {
    adapter.h = workspace.take(x.rows * adapter.stride);
    adapter.a_transposed = take_panel(workspace, adapter.I, adapter.R);
    pack_panel(adapter.a_transposed, operand(adapter.lora->a).transposed(), adapter.R, x.dtype);
    if (!dy) continue;
    adapter.u = workspace.take(x.rows * adapter.stride);
    adapter.b = take_panel(workspace, adapter.O, adapter.R);
    pack_panel(adapter.b, operand(adapter.lora->b), adapter.R, x.dtype);
  }
  const int64_t row_tiles = tile_count(x.rows, kTileRows);
  run(pool, row_tiles, [&](int64_t t) {
    const Workspace::Lease tiles(workspace);
    const int64_t row = t * kTileRows, rows = std::min(kTileRows, x.rows - row);
    for (const Adapter& adapter : adapters.span()) {
      float* h = adapter.h + row * adapter.stride;
      project_down(h, adapter, x, row, rows, tiles);
      scale_tile(h, adapter.stride, rows, adapter.R, adapter.factor());
      if (!dy) continue;
      float* u = adapter.u + row * adapter.stride;
      const MatrixView dy_part = dy.row_range(row, row + rows).col_range(adapter.column, adapter.column + adapter.O);
      multiply(u, adapter.stride, operand(dy_part), adapter.b, rows, adapter.R, adapter.O, Write::Overwrite, x.dtype,
               tiles->product);
      scale_tile(u, adapter.stride, rows, adapter.R, adapter.factor());
    }
  });
}

// Rows [begin, begin + n) of dB (O, R) += dy^T h.
void accumulate_db(const Adapter& adapter, const MatrixView& dy, int64_t begin, int64_t n,
                   const Workspace::Lease& tiles) {
  const MatrixView columns = dy.col_range(adapter.column + begin, adapter.column + begin + n);
  multiply(tiles->out, adapter.stride, operand(columns).transposed(), adapter.h_panel, n, adapter.R, dy.rows,
           Write::Overwrite, dy.dtype, tiles->product);
  float* db = adapter.lora->db.as<float>() + begin * adapter.R;
  for (int64_t i = 0; i < n; ++i) add_row(db + i * adapter.R, tiles->out + i * adapter.stride, adapter.R);
}

// Columns [begin, begin + n) of dA (R, I) += u^T (m x), computed as its transpose so that x is read where it lies.
void accumulate_da(const Adapter& adapter, const MatrixView& x, int64_t begin, int64_t n,
                   const Workspace::Lease& tiles) {
  const MatrixView columns = x.col_range(begin, begin + n);
  if (adapter.lora->dropout == 0) {
    multiply(tiles->out, adapter.stride, operand(columns).transposed(), adapter.u_panel, n, adapter.R, x.rows,
             Write::Overwrite, x.dtype, tiles->product);
  } else {
    for (int64_t row = 0; row < x.rows; row += kMaskCols) {
      const int64_t rows = std::min(kMaskCols, x.rows - row);
      widen_tile(tiles->masked, n, columns.row_range(row, row + rows));
      drop(tiles->masked, n, rows, n, *adapter.lora, row, begin, x.cols);
      multiply(tiles->out, adapter.stride, operand(tiles->masked, n).transposed(), adapter.u_panel.rows_from(row), n,
               adapter.R, rows, row == 0 ? Write::Overwrite : Write::Accumulate, x.dtype, tiles->product);
    }
  }
  float* da = adapter.lora->da.as<float>() + begin;
  for (int64_t r = 0; r < adapter.R; ++r)
    for (int64_t i = 0; i < n; ++i) da[r * adapter.I + i] += tiles->out[i * adapter.stride + r];
}

// Each element of dA and dB has one writer, which sums over all rows in ascending order.
void adapter_gradients(ThreadPool& pool, Workspace& workspace, Adapters& adapters, const MatrixView& dy,
                       const MatrixView& x) {
  constexpr int64_t kStep = kTileRows / 2;
  int64_t tasks = 0;
  for (Adapter& adapter : adapters.span()) {
    if (!adapter.lora->da) continue;
    adapter.h_panel = take_panel(workspace, x.rows, adapter.R);
    adapter.u_panel = take_panel(workspace, x.rows, adapter.R);
    pack_panel(adapter.h_panel, operand(adapter.h, adapter.stride), adapter.R, x.dtype);
    pack_panel(adapter.u_panel, operand(adapter.u, adapter.stride), adapter.R, x.dtype);
    tasks += tile_count(adapter.O, kStep) + tile_count(adapter.I, kStep);
  }
  run(pool, tasks, [&](int64_t task) {
    const Workspace::Lease tiles(workspace);
    for (const Adapter& adapter : adapters.span()) {
      if (!adapter.lora->da) continue;
      const int64_t b_tasks = tile_count(adapter.O, kStep), a_tasks = tile_count(adapter.I, kStep);
      const int64_t begin = task * kStep;
      if (task < b_tasks) return accumulate_db(adapter, dy, begin, std::min(kStep, adapter.O - begin), tiles);
      task -= b_tasks;
      const int64_t a_begin = task * kStep;
      if (task < a_tasks) return accumulate_da(adapter, x, a_begin, std::min(kStep, adapter.I - a_begin), tiles);
      task -= a_tasks;
    }
  });
}

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
  Adapters adapters = find_adapters(parts);
  low_rank_products(pool, workspace, adapters, x, {});
  for (Adapter& adapter : adapters.span()) {
    adapter.b_transposed = take_panel(workspace, adapter.R, adapter.O);
    pack_panel(adapter.b_transposed, operand(adapter.lora->b).transposed(), adapter.O, X);
  }
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
        multiply(tiles->out, chunk_cols, operand(adapter->h + row * adapter->stride, adapter->stride),
                 adapter->b_transposed.columns_from(chunk.begin), rows, chunk.n, adapter->R, Write::Accumulate, X,
                 tiles->product);
      const int64_t column = chunk.part_column + chunk.begin;
      store_tile(y.row_range(row, row + rows).col_range(column, column + chunk.n), tiles->out, chunk_cols,
                 parts[static_cast<size_t>(chunk.part)].bias, chunk.begin, write);
    });
  }
  workspace.release();
}

namespace {

// One tile of dx: rows by columns [begin, begin + n), left in tiles->out.
void backward_tile(const Workspace::Lease& tiles, int64_t stride, Panel panel, const Adapters& adapters,
                   std::span<const LinearPart> parts, const MatrixView& dy, int64_t row, int64_t begin, int64_t n,
                   int64_t chunk_cols, int64_t I) {
  int64_t column = 0;
  for (size_t p = 0; p < parts.size(); ++p) {
    const int64_t O = parts[p].out();
    panel.K = O;
    multiply(tiles->out, stride, operand(dy.col_range(column, column + O)), panel, dy.rows, n, O,
             p == 0 ? Write::Overwrite : Write::Accumulate, dy.dtype, tiles->product);
    panel.data += panel_floats(O, chunk_cols);
    column += O;
    const Adapter* adapter = adapters.of_part(static_cast<int64_t>(p));
    if (adapter == nullptr) continue;
    const bool masked = adapter->lora->dropout > 0;
    float* out = masked ? tiles->second : tiles->out;
    multiply(out, stride, operand(adapter->u + row * adapter->stride, adapter->stride), adapter->a.columns_from(begin),
             dy.rows, n, adapter->R, masked ? Write::Overwrite : Write::Accumulate, dy.dtype, tiles->product);
    if (!masked) continue;
    drop(out, stride, dy.rows, n, *adapter->lora, row, begin, I);
    for (int64_t i = 0; i < dy.rows; ++i) add_row(tiles->out + i * stride, out + i * stride, n);
  }
}

void backward_to_input(ThreadPool& pool, Workspace& workspace, const MatrixView& dx, const MatrixView& dy,
                       Adapters& adapters, std::span<const LinearPart> parts, Write write) {
  const DType X = dy.dtype;
  const int64_t I = dx.cols, K = dy.cols, row_tiles = tile_count(dx.rows, kTileRows);
  for (Adapter& adapter : adapters.span()) {
    adapter.a = take_panel(workspace, adapter.R, I);
    pack_panel(adapter.a, operand(adapter.lora->a), I, X);
  }
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
                    dy.row_range(row, row + rows), row, begin, n, chunk_cols, I);
      store_tile(dx.row_range(row, row + rows).col_range(begin, begin + n), tiles->out, chunk_cols, {}, 0, write);
    });
  }
}

}  // namespace

void linear_backward(ThreadPool& pool, Workspace& workspace, MatrixView dx, MatrixView dy, MatrixView x,
                     std::span<const LinearPart> parts, Write write) {
  Adapters adapters = find_adapters(parts);
  if (adapters.count > 0) {
    low_rank_products(pool, workspace, adapters, x, dy);
    adapter_gradients(pool, workspace, adapters, dy, x);
  }
  if (dx) backward_to_input(pool, workspace, dx, dy, adapters, parts, write);
  workspace.release();
}

}  // namespace lema::cpu
