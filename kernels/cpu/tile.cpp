// Row by row, so that conversions and sums run at vector speed on a tile that lies in the cache.
#include "cpu/tile.h"

#include <algorithm>

#include "cpu/convert.h"
#include "cpu/simd.h"
#include "cpu/workspace.h"

namespace lema::cpu {

void add_row(float* a, const float* b, int64_t n) {
  vectorised([&](auto lanes) {
    constexpr int W = lanes.kCount;
    for_columns<W>(n, [&](int64_t i, auto count) {
      store<W>(a + i, load<W>(a + i, count) + load<W>(b + i, count), count);
    });
  });
}

void scale_tile(float* tile, int64_t stride, int64_t rows, int64_t cols, float factor) {
  vectorised([&](auto lanes) {
    constexpr int W = lanes.kCount;
    for (float* row = tile; row < tile + rows * stride; row += stride)
      for_columns<W>(cols, [&](int64_t i, auto count) { store<W>(row + i, load<W>(row + i, count) * factor, count); });
  });
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
