// Row by row, so that conversions and sums run at vector speed on a tile that lies in the cache.
#include "cpu/tile.h"

#include <algorithm>

#include "cpu/clones.h"
#include "cpu/convert.h"
#include "cpu/workspace.h"

namespace lema::cpu {

LEMA_CLONES void add_row(float* a, const float* b, int64_t n) {
  for (int64_t i = 0; i < n; ++i) a[i] += b[i];
}

LEMA_CLONES static void scale_row(float* a, float factor, int64_t n) {
  for (int64_t i = 0; i < n; ++i) a[i] *= factor;
}

void scale_tile(float* tile, int64_t stride, int64_t rows, int64_t cols, float factor) {
  for (int64_t i = 0; i < rows; ++i) scale_row(tile + i * stride, factor, cols);
}

void widen_tile(float* tile, int64_t stride, const MatrixView& m) {
  for (int64_t i = 0; i < m.rows; ++i) widen(tile + i * stride, m.row_range(i, i + 1).data, m.dtype, m.cols);
}

void store_tile(const MatrixView& y, float* tile, int64_t stride, const TensorView& bias, int64_t begin, Write write) {
  float row_bias[kTileCols], before[kTileCols];
  if (bias)
    widen(row_bias, static_cast<const char*>(bias.data) + begin * element_bytes(bias.dtype), bias.dtype, y.cols);
  for (int64_t i = 0; i < y.rows; ++i) {
    float* row = tile + i * stride;
    void* out = y.row_range(i, i + 1).data;
    if (bias) add_row(row, row_bias, y.cols);
    if (write == Write::Accumulate) {
      widen(before, out, y.dtype, y.cols);
      add_row(row, before, y.cols);
    }
    narrow(out, y.dtype, row, y.cols);
  }
}

}  // namespace lema::cpu
