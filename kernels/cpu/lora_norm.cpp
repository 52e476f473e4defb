// W + scale B A tile by tile as W lies in memory, squared and summed; nothing of its size is kept.
// A task owns its rows of the result and sums over tiles in their order. Ref: arXiv:2402.09353,
// section 4.1; peft DoraLinearLayer.get_weight_norm.
#include "cpu/lora_norm.h"

#include <algorithm>
#include <cmath>

#include "cpu/convert.h"
#include "cpu/simd.h"
#include "cpu/tile.h"

namespace lema::cpu {
namespace {

// The adapted weight as stored, (rows, cols): scale * left (rows, R) right (R, cols) + W.
struct Adapted {
  Operand weight, left, right;
  int64_t R = 0;
  float scale = 0;
};

// tiles->second (rows, n) = (W + scale * left right) at (row, col), all f32.
void adapted_tile(const Workspace::Lease& tiles, const Adapted& m, int64_t row, int64_t rows,
                  int64_t col, int64_t n) {
  for (int64_t r = 0; r < m.R; r += kPanelRows) {
    const Panel panel =
        panel_for(tiles->panel, std::min(kPanelRows, m.R - r), m.right.dtype, DType::F32);
    pack_panel(panel, m.right.from(r, col), n, DType::F32);
    multiply(tiles->second, kTileCols, m.left.from(row, r), panel, rows, n, panel.K,
             r == 0 ? Write::Overwrite : Write::Accumulate, DType::F32, tiles->product);
  }
  scale_tile(tiles->second, kTileCols, rows, n, m.scale);
  float weights[kTileCols];
  for (int64_t r = 0; r < rows; ++r) {
    widen(weights, m.weight.from(row + r, col).data, m.weight.dtype, n);
    add_row(tiles->second + r * kTileCols, weights, n);
  }
}

float sum_of_squares(const float* x, int64_t n) {
  float sum = 0;
  vectorised([&](auto lanes) {
    constexpr int W = lanes.kCount;
    sum = sum_columns<W>(n, [&](int64_t c, auto count) {
      const Floats<W> v = load<W>(x + c, count);
      return v * v;
    });
  });
  return sum;
}

// The lengths of stored rows [row, row + rows), at most kTileRows.
void row_lengths(float* norm, const Workspace::Lease& tiles, const Adapted& m, int64_t row,
                 int64_t rows, int64_t cols) {
  double sums[kTileRows] = {};
  for (int64_t col = 0; col < cols; col += kTileCols) {
    const int64_t n = std::min(kTileCols, cols - col);
    adapted_tile(tiles, m, row, rows, col, n);
    for (int64_t r = 0; r < rows; ++r)
      sums[r] += static_cast<double>(sum_of_squares(tiles->second + r * kTileCols, n));
  }
  for (int64_t r = 0; r < rows; ++r) norm[row + r] = static_cast<float>(std::sqrt(sums[r]));
}

// The lengths of stored columns [col, col + n), at most kTileCols.
void column_lengths(float* norm, const Workspace::Lease& tiles, const Adapted& m, int64_t rows,
                    int64_t col, int64_t n) {
  double sums[kTileCols] = {};
  for (int64_t row = 0; row < rows; row += kTileRows) {
    const int64_t count = std::min(kTileRows, rows - row);
    adapted_tile(tiles, m, row, count, col, n);
    for (int64_t r = 0; r < count; ++r) {
      const float* x = tiles->second + r * kTileCols;
      for (int64_t c = 0; c < n; ++c)
        sums[c] += static_cast<double>(x[c]) * static_cast<double>(x[c]);
    }
  }
  for (int64_t c = 0; c < n; ++c) norm[col + c] = static_cast<float>(std::sqrt(sums[c]));
}

}  // namespace

void lora_norm(ThreadPool& pool, Workspace& workspace, TensorView norm, const LinearPart& part) {
  const Operand a = operand(part.lora->a), b = operand(part.lora->b);
  const bool transposed = part.transposed;
  const Adapted m = {operand(part.weight), transposed ? a.transposed() : b,
                     transposed ? b.transposed() : a, part.lora->a.shape[0], part.lora->scale};
  const int64_t O = part.out(), step = transposed ? kTileCols : kTileRows;
  run(pool, tile_count(O, step), [&](int64_t task) {
    const Workspace::Lease tiles(workspace);
    const int64_t begin = task * step, n = std::min(step, O - begin);
    if (transposed)
      column_lengths(norm.as<float>(), tiles, m, part.in(), begin, n);
    else
      row_lengths(norm.as<float>(), tiles, m, begin, n, part.in());
  });
}

}  // namespace lema::cpu
