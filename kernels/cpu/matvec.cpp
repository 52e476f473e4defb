// Two layouts: weight rows as long dot products (O, I), or weight rows added up column chunk by
// column chunk (I, O).
#include "cpu/matvec.h"

#include <algorithm>

#include "core/error.h"
#include "cpu/simd.h"
#include "cpu/tile.h"
#include "dispatch.h"

namespace lema::cpu {
namespace {

constexpr int kRowsX = 4;  // rows of x at a time: 4 x 4 sums fill half of the AVX-512 registers
constexpr int64_t kChunk = 64;  // output columns of one task

// One chunk: columns [begin, begin + n) of y.
template <typename T>
struct Few {
  float* y;
  int64_t ldy;
  const float* x;
  int64_t ldx;
  const T* w;
  int64_t ldw, N, I, begin, n;
  bool accumulate, round;  // round: w to bf16

  void put(int64_t row, int64_t column, float value) const {
    float& out = y[row * ldy + column];
    out = accumulate ? out + value : value;
  }
};

template <int W, bool kRound, typename T, typename Count>
[[gnu::always_inline]] inline Floats<W> weight(const T* w, Count n) {
  const Floats<W> v = load<W>(w, n);
  return kRound ? rounded_to<W, bf16>(v) : v;
}

// w (O, I): four weight rows against kRows rows of x; rows past the end repeat the last one.
template <int W, bool kRound, int kRows, typename T>
[[gnu::always_inline]] inline void dot_rows(const Few<T>& p, int64_t n0, int64_t o0) {
  Floats<W> acc[4][kRows] = {};
  const T* w[4];
  for (int o = 0; o < 4; ++o) w[o] = p.w + std::min(o0 + o, p.n - 1) * p.ldw;
  const float* x = p.x + n0 * p.ldx;
  for_columns<W>(p.I, [&](int64_t i, auto count) {
    Floats<W> xv[kRows];
#pragma GCC unroll 4
    for (int n = 0; n < kRows; ++n) xv[n] = load<W>(x + n * p.ldx + i, count);
#pragma GCC unroll 4
    for (int o = 0; o < 4; ++o) {
      const Floats<W> wv = weight<W, kRound>(w[o] + i, count);
#pragma GCC unroll 4
      for (int n = 0; n < kRows; ++n) acc[o][n] += wv * xv[n];
    }
  });
  for (int o = 0; o < 4 && o0 + o < p.n; ++o)
    for (int n = 0; n < kRows; ++n) p.put(n0 + n, p.begin + o0 + o, sum<W>(acc[o][n]));
}

// w (I, O): one row of x against the chunk, a weight row at a time; the chunk of w stays in the
// cache for the next.
template <int W, bool kRound, typename T>
[[gnu::always_inline]] inline void add_rows(const Few<T>& p, int64_t row) {
  constexpr int kVectors = static_cast<int>(kChunk) / W;
  Floats<W> acc[kVectors] = {};
  const float* x = p.x + row * p.ldx;
  for (int64_t i = 0; i < p.I; ++i) {
    const T* w = p.w + i * p.ldw;
    if (p.n == kChunk) {
#pragma GCC unroll 16
      for (int v = 0; v < kVectors; ++v) acc[v] += x[i] * weight<W, kRound>(w + v * W, Full<W>{});
    } else {
      for (int v = 0; v * W < p.n; ++v)
        acc[v] += x[i] * weight<W, kRound>(w + v * W, std::min<int64_t>(W, p.n - v * W));
    }
  }
  for (int v = 0; v * W < p.n; ++v)
    for (int j = 0; j < W && v * W + j < p.n; ++j) p.put(row, p.begin + v * W + j, acc[v][j]);
}

template <int W, bool kRound, typename T>
[[gnu::always_inline]] inline void multiply_chunk(const Few<T>& p, bool dots) {
  if (!dots) {
    for (int64_t row = 0; row < p.N; ++row) add_rows<W, kRound>(p, row);
    return;
  }
  for (int64_t o = 0; o < p.n; o += 4) {
    int64_t row = 0;
    for (; row + kRowsX <= p.N; row += kRowsX) dot_rows<W, kRound, kRowsX>(p, row, o);
    for (; row < p.N; ++row) dot_rows<W, kRound, 1>(p, row, o);
  }
}

}  // namespace

void multiply_few(ThreadPool& pool, float* y, int64_t ldy, const float* x, int64_t ldx,
                  const Operand& w, int64_t N, int64_t O, int64_t I, Write write, DType X) {
  check(N <= kFewRows, "{} rows", N);
  const bool dots = w.row_stride == 1;
  with_storage(w.dtype, [&]<typename T>(Type<T>) {
    run(pool, tile_count(O, kChunk), [&](int64_t chunk) {
      const int64_t begin = chunk * kChunk;
      const auto* first = static_cast<const T*>(w.from(0, begin).data);
      const Few<T> part = {y,
                           ldy,
                           x,
                           ldx,
                           first,
                           dots ? w.col_stride : w.row_stride,
                           N,
                           I,
                           begin,
                           std::min(kChunk, O - begin),
                           write == Write::Accumulate,
                           X == DType::BF16 && w.dtype != X};
      vectorised([&](auto lanes) {
        constexpr int W = lanes.kCount;
        if (part.round)
          multiply_chunk<W, true>(part, dots);
        else
          multiply_chunk<W, false>(part, dots);
      });
    });
  });
}

}  // namespace lema::cpu
