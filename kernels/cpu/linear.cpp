// Linear forward and backward: low-rank products first (adapters.h), then output tiles of up to
// 256 rows by 384 columns. A tile packs its share of the weight block by block into the cache and
// is stored once, rounded once.
#include "cpu/linear.h"

#include <algorithm>

#include "core/error.h"
#include "cpu/adapters.h"
#include "cpu/convert.h"
#include "cpu/dropout.h"
#include "cpu/gemm_bf16.h"
#include "cpu/linear_few.h"
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

// What adds_in_registers copies of a low-rank product has room.
static_assert(kMaxAddend <= kTileRows && kBlockRows * kMaxAddend <= 2 * kTileRows * kMaskCols);

// A product that a tile has besides that of the base weight: a (rows, R) b (R, n), f32.
struct LowRank {
  Operand a, b;
  int64_t R = 0;
};

// out (rows, n) (=|+=) A (rows, K) B (K, n): B is packed once for all rows, `step` rows at a time.
// left(row, rows, k, kn) gives rows [row, row + rows) of A's columns [k, k + kn).
template <typename Left>
void multiply_tile(float* out, const Workspace::Lease& tiles, const Left& left, int64_t step,
                   const Operand& b, int64_t rows, int64_t n, int64_t K, Write write, DType X,
                   const Addend& plus = {}) {
  for (int64_t k = 0; k < K; k += step) {
    const int64_t kn = std::min(step, K - k);
    const Panel panel = panel_for(tiles->panel, kn, b.dtype, X);
    pack_panel(panel, b.from(k, 0), n, X);
    for (int64_t row = 0; row < rows; row += kTileRows) {
      const int64_t tile_rows = std::min(kTileRows, rows - row);
      const Addend part = {plus.a + row * plus.stride, plus.stride, plus.panel};
      multiply(out + row * kTileCols, kTileCols, left(row, tile_rows, k, kn), panel, tile_rows, n,
               kn, k == 0 ? write : Write::Accumulate, X, tiles->product,
               plus.a != nullptr && k + kn == K ? &part : nullptr);
    }
  }
}
// out (rows, n) (=|+=) A (rows, K) B (K, n) + the low-rank product: while the sums are in registers
// where the kernel can.
void multiply_tile(const Workspace::Lease& tiles, const Operand& a, const Operand& b, int64_t rows,
                   int64_t n, int64_t K, Write write, DType X, const LowRank& low = {}) {
  const auto left = [&](int64_t row, int64_t, int64_t k, int64_t) { return a.from(row, k); };
  const bool adds = low.R > 0 && low.R <= kMaxAddend && adds_in_registers(X);
  Addend plus;
  if (adds) {
    // Nothing is masked meanwhile, which `second` and `masked` are for.
    plus.panel = panel_for(tiles->second, low.R, DType::F32, X);
    pack_panel(plus.panel, low.b, n, X);
    plus.stride = round_up(low.R, kInnerStep);
    auto* to = reinterpret_cast<bf16*>(tiles->masked);
    plus.a = to;
    for (int64_t row = 0; row < rows; ++row, to += plus.stride) {
      narrow(to, X, static_cast<const float*>(low.a.from(row, 0).data), low.R);
      std::fill_n(to + low.R, plus.stride - low.R, bf16{0});
    }
  }
  multiply_tile(tiles->out, tiles, left, kPanelRows, b, rows, n, K, write, X, plus);
  if (low.R > 0 && !adds)
    multiply_tile(tiles, low.a, low.b, rows, n, low.R, Write::Accumulate, X);
}

// Left operands that are made tile by tile in tiles->masked, kMaskCols columns at a time.
// m o x, from row `first` of the call.
auto masked(const Workspace::Lease& tiles, const MatrixView& x, const LoraView& lora,
            int64_t first) {
  return [&tiles, &x, &lora, first](int64_t row, int64_t rows, int64_t k, int64_t kn) {
    const MatrixView part = x.row_range(first + row, first + row + rows).col_range(k, k + kn);
    widen_tile(tiles->masked, kn, part);
    drop(tiles->masked, kn, rows, kn, lora, first + row, k, x.cols);
    return operand(tiles->masked, kn);
  };
}
// (a g + b) o dy, from row `first` of the call and the adapter's first column.
auto scaled(const Workspace::Lease& tiles, const MatrixView& dy, const Adapter& adapter,
            int64_t first, float a, float b) {
  return [&tiles, &dy, &adapter, first, a, b](int64_t row, int64_t rows, int64_t k, int64_t kn) {
    widen_tile(tiles->masked, kn,
               dy.row_range(first + row, first + row + rows)
                   .col_range(adapter.column + k, adapter.column + k + kn));
    scale_columns(tiles->masked, kn, rows, kn, adapter.gain + k, a, b);
    return operand(tiles->masked, kn);
  };
}

// W^T (I, O) or W (O, I) as it lies in memory.
Operand weight_operand(const LinearPart& part, bool as_transpose) {
  const Operand w = operand(part.weight);
  return part.transposed == as_transpose ? w : w.transposed();
}

bool has_dropout(std::span<const LinearPart> parts) {
  for (const LinearPart& part : parts)
    if (part.lora != nullptr && part.lora->dropout > 0) return true;
  return false;
}

// out = what the base weight gives (x W^T, with a gain g o (x W^T), and with dropout besides
// x W^T + (g - 1) o (drop(x) W^T)) + the low-rank product.
void tile_of_part(const Workspace::Lease& tiles, const MatrixView& x, const LinearPart& part,
                  const Adapter* adapter, const Tile& t, const LowRank& low) {
  const Operand w = weight_operand(part, true).from(0, t.begin);
  const bool has_gain = adapter != nullptr && adapter->gain != nullptr;
  Write write = Write::Overwrite;
  if (has_gain && adapter->lora->dropout > 0) {
    const float keep = 1 / (1 - adapter->lora->dropout);
    multiply_tile(tiles->out, tiles, masked(tiles, x, *adapter->lora, t.row), kMaskCols, w, t.rows,
                  t.n, x.cols, Write::Overwrite, x.dtype);
    scale_columns(tiles->out, kTileCols, t.rows, t.n, adapter->gain + t.begin, keep, -keep);
    write = Write::Accumulate;
  }
  const bool is_scaled = has_gain && write == Write::Overwrite;
  multiply_tile(tiles, operand(x).from(t.row, 0), w, t.rows, t.n, x.cols, write, x.dtype,
                is_scaled ? LowRank{} : low);
  if (!is_scaled) return;
  scale_columns(tiles->out, kTileCols, t.rows, t.n, adapter->gain + t.begin);
  if (low.R > 0) multiply_tile(tiles, low.a, low.b, t.rows, t.n, low.R, Write::Accumulate, x.dtype);
}

void forward_part(ThreadPool& pool, Workspace& workspace, const MatrixView& y, const MatrixView& x,
                  const LinearPart& part, const Adapters& adapters, const Adapter* adapter,
                  Write write) {
  const Tiling tiling(x.rows, part.out());
  run(pool, tiling.count(), [&](int64_t i) {
    const Workspace::Lease tiles(workspace);
    const Tile t = tile_at(tiling, i);
    LowRank low;
    if (adapter != nullptr)
      low = {adapters.h(*adapter, t.row),
             operand(adapter->b, adapter->R).transposed().from(0, t.begin), adapter->R};
    tile_of_part(tiles, x, part, adapter, t, low);
    store_tile(y.row_range(t.row, t.row + t.rows).col_range(t.begin, t.begin + t.n), tiles->out,
               kTileCols, part.bias, t.begin, write, Store::PastCaches);
  });
}

// out += m (u A) of one stack; with a gain, whose stack holds one adapter, m (u A + ((g - 1) o dy)
// W / (1 - dropout)).
void add_stack(const Workspace::Lease& tiles, const Adapters& adapters, const Stack& stack,
               const MatrixView& dy, std::span<const LinearPart> parts, const Tile& t, int64_t I,
               DType X) {
  const Operand a = operand(stack.rows, I).from(0, t.begin);
  const Operand u = operand(stack.u + t.row * stack.stride, stack.stride);
  if (stack.dropout == nullptr)
    return multiply_tile(tiles, u, a, t.rows, t.n, stack.R, Write::Accumulate, X);
  const Adapter& adapter = adapters.only_of(stack);
  const Operand w = weight_operand(parts[static_cast<size_t>(adapter.part)], false);
  const float keep = 1 / (1 - stack.dropout->dropout);
  for (int64_t row = 0; row < t.rows; row += kTileRows) {
    const int64_t rows = std::min(kTileRows, t.rows - row);
    if (adapter.gain != nullptr)
      multiply_tile(tiles->second, tiles, scaled(tiles, dy, adapter, t.row + row, keep, -keep),
                    kMaskCols, w.from(0, t.begin), rows, t.n, adapter.O, Write::Overwrite, X);
    const auto u_tile = [&](int64_t, int64_t, int64_t r, int64_t) { return u.from(row, r); };
    multiply_tile(tiles->second, tiles, u_tile, kPanelRows, a, rows, t.n, stack.R,
                  adapter.gain != nullptr ? Write::Accumulate : Write::Overwrite, X);
    drop(tiles->second, kTileCols, rows, t.n, *stack.dropout, t.row + row, t.begin, I);
    for (int64_t r = 0; r < rows; ++r)
      add_row(tiles->out + (row + r) * kTileCols, tiles->second + r * kTileCols, t.n);
  }
}

void backward_to_input(ThreadPool& pool, Workspace& workspace, const MatrixView& dx,
                       const MatrixView& dy, const Adapters& adapters,
                       std::span<const LinearPart> parts, Write write) {
  const Tiling tiling(dx.rows, dx.cols);
  const Stack* with_last = adapters.only_plain_stack();
  run(pool, tiling.count(), [&](int64_t i) {
    const Workspace::Lease tiles(workspace);
    const Tile t = tile_at(tiling, i);
    LowRank low;  // of the last part's product
    if (with_last != nullptr)
      low = {operand(with_last->u + t.row * with_last->stride, with_last->stride),
             operand(with_last->rows, dx.cols).from(0, t.begin), with_last->R};
    int64_t column = 0;
    for (size_t p = 0; p < parts.size(); ++p) {
      const int64_t O = parts[p].out();
      const Operand w = weight_operand(parts[p], false).from(0, t.begin);
      const Write part_write = p == 0 ? Write::Overwrite : Write::Accumulate;
      const Adapter* adapter = adapters.of_part(static_cast<int64_t>(p));
      if (adapter != nullptr && adapter->gain != nullptr && adapter->lora->dropout == 0)
        multiply_tile(tiles->out, tiles, scaled(tiles, dy, *adapter, t.row, 1, 0), kMaskCols, w,
                      t.rows, t.n, O, part_write, dy.dtype);
      else
        multiply_tile(tiles, operand(dy).from(t.row, column), w, t.rows, t.n, O, part_write,
                      dy.dtype, p + 1 == parts.size() ? low : LowRank{});
      column += O;
    }
    for (const Stack& stack : adapters.stacks())
      if (&stack != with_last) add_stack(tiles, adapters, stack, dy, parts, t, dx.cols, dy.dtype);
    store_tile(dx.row_range(t.row, t.row + t.rows).col_range(t.begin, t.begin + t.n), tiles->out,
               kTileCols, {}, 0, write, Store::PastCaches);
  });
}

// d_magnitude += sum over n of dy o z / norm, where z = drop(x) (W + scale B A)^T is computed
// again.
void backward_to_magnitude(ThreadPool& pool, Workspace& workspace, const MatrixView& dy,
                           const MatrixView& x, const Adapters& adapters, const Adapter& adapter,
                           const LinearPart& part) {
  const LoraView& lora = *adapter.lora;
  const int64_t chunk = Tiling(1, adapter.O).chunk;
  run(pool, tile_count(adapter.O, chunk), [&](int64_t i) {
    const Workspace::Lease tiles(workspace);
    const int64_t begin = i * chunk, n = std::min(chunk, adapter.O - begin);
    const Operand w = weight_operand(part, true).from(0, begin),
                  b = operand(lora.b).transposed().from(0, begin);
    float sums[kTileCols] = {}, dy_row[kTileCols];
    for (int64_t row = 0; row < x.rows; row += kBlockRows) {
      const int64_t rows = std::min(kBlockRows, x.rows - row);
      if (lora.dropout > 0) {
        multiply_tile(tiles->out, tiles, masked(tiles, x, lora, row), kMaskCols, w, rows, n, x.cols,
                      Write::Overwrite, x.dtype);
        scale_tile(tiles->out, kTileCols, rows, n, 1 / (1 - lora.dropout));
      } else {
        multiply_tile(tiles, operand(x).from(row, 0), w, rows, n, x.cols, Write::Overwrite,
                      x.dtype);
      }
      multiply_tile(tiles, adapters.h(adapter, row), b, rows, n, adapter.R, Write::Accumulate,
                    x.dtype);
      for (int64_t r = 0; r < rows; ++r) {
        const float* z = tiles->out + r * kTileCols;
        const int64_t first = adapter.column + begin;
        widen(dy_row, dy.row_range(row + r, row + r + 1).col_range(first, first + n).data, dy.dtype,
              n);
        for (int64_t c = 0; c < n; ++c) sums[c] += dy_row[c] * z[c];
      }
    }
    for (int64_t c = begin; c < begin + n; ++c)
      lora.d_magnitude.as<float>()[c] += sums[c - begin] / lora.norm.as<float>()[c];
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
  for (const Adapter& adapter : adapters.all())
    if (adapter.lora->d_magnitude)
      backward_to_magnitude(pool, workspace, dy, x, adapters, adapter,
                            parts[static_cast<size_t>(adapter.part)]);
  if (dx) backward_to_input(pool, workspace, dx, dy, adapters, parts, write);
  workspace.release_to(0);
}

}  // namespace lema::cpu
