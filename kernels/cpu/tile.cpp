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
      for_columns<W>(cols, [&](int64_t i, auto count) {
        store<W>(row + i, load<W>(row + i, count) * factor, count);
      });
  });
}

void scale_columns(float* tile, int64_t stride, int64_t rows, int64_t cols, const float* factors,
                   float a, float b) {
  vectorised([&](auto lanes) {
    constexpr int W = lanes.kCount;
    for (float* row = tile; row < tile + rows * stride; row += stride)
      for_columns<W>(cols, [&](int64_t i, auto count) {
        store<W>(row + i, load<W>(row + i, count) * (load<W>(factors + i, count) * a + b), count);
      });
  });
}

void widen_tile(float* tile, int64_t stride, const MatrixView& m) {
  for (int64_t i = 0; i < m.rows; ++i)
    widen(tile + i * stride, m.row_range(i, i + 1).data, m.dtype, m.cols);
}

void store_tile(const MatrixView& y, float* tile, int64_t stride, const TensorView& bias,
                int64_t begin, Write write, Store store) {
  float part_bias[kTileCols], before[kTileCols];
  for (int64_t c = 0; c < y.cols; c += kTileCols) {
    const int64_t n = std::min(kTileCols, y.cols - c);
    if (bias) {
      const auto* first =
          static_cast<const char*>(bias.data) + (begin + c) * element_bytes(bias.dtype);
      widen(part_bias, first, bias.dtype, n);
    }
    for (int64_t i = 0; i < y.rows; ++i) {
      float* part = tile + i * stride + c;
      void* out = y.row_range(i, i + 1).col_range(c, c + n).data;
      if (bias) add_row(part, part_bias, n);
      if (write == Write::Accumulate) {
        widen(before, out, y.dtype, n);
        add_row(part, before, n);
      }
      (store == Store::PastCaches ? narrow_past_caches : narrow)(out, y.dtype, part, n);
    }
  }
  if (store == Store::PastCaches) publish_past_caches();
}

}  // namespace lema::cpu
