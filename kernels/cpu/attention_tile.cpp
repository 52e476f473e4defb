// The small products of attention: all arithmetic of a tile but its softmax.
#include "cpu/attention_tile.h"

namespace lema::cpu {
namespace {

// MR rows by NR vectors of c (=|+=) a b, sums in registers; rows of b and c are `pitch` apart.
template <int W, int MR, int NR, bool kAdd>
[[gnu::always_inline]] inline void multiply_block(float* c, Broadcast a, const float* b, int64_t K,
                                                  int64_t pitch) {
  Floats<W> acc[MR][NR];
#pragma GCC unroll 16
  for (int m = 0; m < MR; ++m)
#pragma GCC unroll 16
    for (int n = 0; n < NR; ++n) acc[m][n] = kAdd ? load<W>(c + m * pitch + n * W) : Floats<W>{};
  for (int64_t k = 0; k < K; ++k) {
    Floats<W> right[NR];
#pragma GCC unroll 16
    for (int n = 0; n < NR; ++n) right[n] = load<W>(b + k * pitch + n * W);
#pragma GCC unroll 16
    for (int m = 0; m < MR; ++m) {
      const float left = a.data[m * a.row + k * a.col];
#pragma GCC unroll 16
      for (int n = 0; n < NR; ++n) acc[m][n] += left * right[n];
    }
  }
#pragma GCC unroll 16
  for (int m = 0; m < MR; ++m)
#pragma GCC unroll 16
    for (int n = 0; n < NR; ++n) store<W>(c + m * pitch + n * W, acc[m][n]);
}

// All rows for NR vectors of columns: blocks of MR rows, then single rows.
template <int W, int MR, int NR, bool kAdd>
[[gnu::always_inline]] inline void multiply_columns(float* c, Broadcast a, const float* b,
                                                    int64_t M, int64_t K, int64_t pitch) {
  int64_t m = 0;
  for (; m + MR <= M; m += MR)
    multiply_block<W, MR, NR, kAdd>(c + m * pitch, {a.data + m * a.row, a.row, a.col}, b, K, pitch);
  for (; m < M; ++m)
    multiply_block<W, 1, NR, kAdd>(c + m * pitch, {a.data + m * a.row, a.row, a.col}, b, K, pitch);
}

// An FMA takes 4 cycles and 2 start in each, so 8 or more sums run side by side: 16 with the 32
// registers of AVX-512, 8 with the 16 of the others.
template <int W, bool kAdd>
[[gnu::always_inline]] inline void multiply_all(float* c, Broadcast a, const float* b, int64_t M,
                                                int64_t K, int64_t lanes, int64_t pitch) {
  constexpr int kWide = W == 16 ? 4 : 2;
  int64_t l = 0;
  for (; l + kWide * W <= lanes; l += kWide * W)
    multiply_columns<W, 4, kWide, kAdd>(c + l, a, b + l, M, K, pitch);
  for (; l < lanes; l += W) multiply_columns<W, 8, 1, kAdd>(c + l, a, b + l, M, K, pitch);
}

}  // namespace

void multiply(float* c, Broadcast a, const float* b, int64_t M, int64_t K, int64_t lanes,
              int64_t pitch, Write write) {
  vectorised([=](auto vector) {
    if (write == Write::Accumulate) {
      multiply_all<vector.kCount, true>(c, a, b, M, K, lanes, pitch);
    } else {
      multiply_all<vector.kCount, false>(c, a, b, M, K, lanes, pitch);
    }
  });
}

}  // namespace lema::cpu
