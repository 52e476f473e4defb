// The blocked matrix product: panels of 48 columns against 8 rows at a time, accumulators in
// registers, one inner kernel per instruction set. Called by linear and head through pack_panel and
// multiply.
#include "cpu/gemm.h"

#include <immintrin.h>

#include <algorithm>

#include "core/error.h"
#include "cpu/convert.h"
#include "cpu/gemm_bf16.h"
#include "cpu/isa.h"
#include "cpu/transpose.h"

namespace lema::cpu {
namespace {

constexpr int kRows = 8;  // rows of an inner kernel

// c (m <= 8, 16 * lanes) (=|+=) a (m, K) times a sliver b (K, 16 * lanes); a[i * rs + k * cs].
// Sums start at zero and are added to c at the end: a long sum (the head's over the vocabulary) is
// one of parts, and its rounding error grows with the root of their number.
struct Inner {
  float* c;
  int64_t ldc;
  const float* a;
  int64_t rs, cs;
  const float* b;
  int64_t ldb, K, m;
  bool accumulate;
  // Rows past the last repeat it: they are computed and not stored.
  const float* row(int i) const { return a + std::min<int64_t>(i, m - 1) * rs; }
};

// 8 x (16 lanes) accumulators: 24 of the 32 registers at 3 lanes.
template <int kLanes>
[[gnu::target("avx512f")]] void inner_avx512(const Inner& p) {
  const float* row[kRows];
  __m512 acc[kRows][kLanes];
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
    row[i] = p.row(i);
#pragma GCC unroll 3
    for (int v = 0; v < kLanes; ++v) acc[i][v] = _mm512_setzero_ps();
  }
  const float* b = p.b;
  for (int64_t k = 0, offset = 0; k < p.K; ++k, offset += p.cs, b += p.ldb) {
    __m512 bv[kLanes];
#pragma GCC unroll 3
    for (int v = 0; v < kLanes; ++v) bv[v] = _mm512_loadu_ps(b + 16 * v);
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
      const __m512 av = _mm512_set1_ps(row[i][offset]);
#pragma GCC unroll 3
      for (int v = 0; v < kLanes; ++v) acc[i][v] = _mm512_fmadd_ps(av, bv[v], acc[i][v]);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
    if (i >= p.m) break;
#pragma GCC unroll 3
    for (int v = 0; v < kLanes; ++v) {
      float* c = p.c + i * p.ldc + 16 * v;
      _mm512_storeu_ps(c, p.accumulate ? _mm512_add_ps(_mm512_loadu_ps(c), acc[i][v]) : acc[i][v]);
    }
  }
}

// 4 x 16 accumulators: 8 of the 16 registers, each lane of the sliver in turn.
template <int kLanes>
[[gnu::target("avx2,fma")]] void inner_avx2(const Inner& p) {
  for (int lane = 0; lane < kLanes; ++lane)
    for (int i0 = 0; i0 < kRows && i0 < p.m; i0 += 4) {
      __m256 acc[4][2];
      const float* row[4];
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        row[i] = p.row(i0 + i);
        acc[i][0] = acc[i][1] = _mm256_setzero_ps();
      }
      const float* b = p.b + 16 * lane;
      for (int64_t k = 0, offset = 0; k < p.K; ++k, offset += p.cs, b += p.ldb) {
        const __m256 b0 = _mm256_loadu_ps(b), b1 = _mm256_loadu_ps(b + 8);
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) {
          const __m256 av = _mm256_broadcast_ss(row[i] + offset);
          acc[i][0] = _mm256_fmadd_ps(av, b0, acc[i][0]);
          acc[i][1] = _mm256_fmadd_ps(av, b1, acc[i][1]);
        }
      }
      for (int i = 0; i < 4 && i0 + i < p.m; ++i) {
        float* c = p.c + (i0 + i) * p.ldc + 16 * lane;
        if (p.accumulate) {
          acc[i][0] = _mm256_add_ps(_mm256_loadu_ps(c), acc[i][0]);
          acc[i][1] = _mm256_add_ps(_mm256_loadu_ps(c + 8), acc[i][1]);
        }
        _mm256_storeu_ps(c, acc[i][0]);
        _mm256_storeu_ps(c + 8, acc[i][1]);
      }
    }
}

// The baseline: row by row, in vectors the compiler chooses.
template <int kLanes>
void inner_plain(const Inner& p) {
  constexpr int kWidth = 16 * kLanes;
  for (int64_t i = 0; i < p.m; ++i) {
    float acc[kWidth] = {};
    float* c = p.c + i * p.ldc;
    const float *a = p.a + i * p.rs, *b = p.b;
    for (int64_t k = 0; k < p.K; ++k, b += p.ldb)
      for (int j = 0; j < kWidth; ++j) acc[j] += a[k * p.cs] * b[j];
    for (int j = 0; j < kWidth; ++j) c[j] = p.accumulate ? c[j] + acc[j] : acc[j];
  }
}

using InnerKernel = void (*)(const Inner&);
InnerKernel inner_kernel(int64_t lanes) {
  static constexpr InnerKernel kKernels[3][3] = {
      {inner_plain<1>, inner_plain<2>, inner_plain<3>},
      {inner_avx2<1>, inner_avx2<2>, inner_avx2<3>},
      {inner_avx512<1>, inner_avx512<2>, inner_avx512<3>}};
  return kKernels[static_cast<int>(isa())][lanes - 1];
}

// A sliver whose columns lie contiguous in memory (a weight (O, I) used as its transpose).
void pack_columns(float* sliver, int64_t width, const Operand& b, int64_t K, int64_t n, DType X) {
  float rows[16][kTransposeCols] = {};
  for (int64_t j0 = 0; j0 < width; j0 += 16)
    for (int64_t k0 = 0; k0 < K; k0 += kTransposeCols) {
      const int64_t kn = std::min(kTransposeCols, K - k0);
      for (int64_t j = 0; j < 16; ++j) {
        if (j0 + j < n)
          widen_operand(rows[j], b.from(k0, j0 + j).data, b.dtype, X, kn);
        else
          std::fill_n(rows[j], kn, 0.f);
      }
      transpose_lane(sliver + k0 * width + j0, width, rows, kn);
    }
}

void pack_rows(float* sliver, int64_t width, const Operand& b, int64_t K, int64_t n, DType X) {
  for (int64_t k = 0; k < K; ++k) {
    widen_operand(sliver + k * width, b.from(k, 0).data, b.dtype, X, n);
    std::fill(sliver + k * width + n, sliver + (k + 1) * width, 0.f);
  }
}

// Rows [0, M), columns [0, K) of A as f32 rounded to X, in the orientation it has in memory.
Operand copy_block(float* out, const Operand& a, int64_t M, int64_t K, DType X) {
  if (a.col_stride == 1) {
    for (int64_t i = 0; i < M; ++i) widen_operand(out + i * K, a.from(i, 0).data, a.dtype, X, K);
    return {out, DType::F32, K, 1};
  }
  for (int64_t k = 0; k < K; ++k) widen_operand(out + k * M, a.from(0, k).data, a.dtype, X, M);
  return {out, DType::F32, 1, M};
}

// One sliver against all rows; `n` of its columns exist in c.
void multiply_sliver(float* c, int64_t ldc, const Operand& a, const float* b, int64_t ldb,
                     int64_t M, int64_t n, int64_t K, bool accumulate) {
  const int64_t width = round_up(n, kLane);
  const InnerKernel inner = inner_kernel(width / kLane);
  for (int64_t i = 0; i < M; i += kRows) {
    const auto* rows = static_cast<const float*>(a.from(i, 0).data);
    const int64_t m = std::min<int64_t>(kRows, M - i);
    if (n == width) {
      inner({c + i * ldc, ldc, rows, a.row_stride, a.col_stride, b, ldb, K, m, accumulate});
      continue;
    }
    float edge[kRows * kSliver];
    for (int64_t r = 0; accumulate && r < m; ++r) {
      std::copy_n(c + (i + r) * ldc, n, edge + r * width);
      std::fill(edge + r * width + n, edge + (r + 1) * width, 0.f);
    }
    inner({edge, width, rows, a.row_stride, a.col_stride, b, ldb, K, m, accumulate});
    for (int64_t r = 0; r < m; ++r) std::copy_n(edge + r * width, n, c + (i + r) * ldc);
  }
}

}  // namespace

Panel panel_for(float* data, int64_t K, DType b, DType X) {
  return {.data = data, .K = K, .pairs = packs_pairs(b, X)};
}

void pack_panel(const Panel& panel, const Operand& b, int64_t N, DType X) {
  check(b.row_stride == 1 || b.col_stride == 1, "an operand has strides {} and {}", b.row_stride,
        b.col_stride);
  if (panel.pairs) return pack_pairs(panel, b, N);
  for (int64_t j = 0; j < N; j += kSliver) {
    const int64_t n = std::min(kSliver, N - j), width = round_up(n, kLane);
    float* sliver = panel.columns_from(j).data;
    if (b.col_stride == 1)
      pack_rows(sliver, width, b.from(0, j), panel.K, n, X);
    else
      pack_columns(sliver, width, b.from(0, j), panel.K, n, X);
  }
}

Panel panel_in_place(const Panel& panel, const Operand& b, int64_t N, DType X) {
  if (b.dtype == DType::F32 && X == DType::F32 && b.col_stride == 1 && N % kLane == 0)
    return {.data = static_cast<float*>(const_cast<void*>(b.data)),
            .K = panel.K,
            .stride = b.row_stride};
  pack_panel(panel, b, N, X);
  return panel;
}

void multiply(float* c, int64_t ldc, const Operand& a, const Panel& panel, int64_t M, int64_t N,
              int64_t K, Write write, DType X, float* scratch, const Addend* plus) {
  check(M <= kTileRows && panel.first + K <= panel.K, "{} rows by {} inner of a panel of {}", M, K,
        panel.K);
  if (panel.pairs) return multiply_pairs(c, ldc, a, panel, M, N, K, write, X, scratch, plus);
  check(plus == nullptr, "a product of f32 with an addend");
  for (int64_t k0 = 0; k0 < K; k0 += kInnerBlock) {
    const int64_t kn = std::min(kInnerBlock, K - k0);
    const bool in_place = a.dtype == DType::F32 && X == DType::F32;
    const Operand block = in_place ? a.from(0, k0) : copy_block(scratch, a.from(0, k0), M, kn, X);
    for (int64_t j = 0; j < N; j += kSliver) {
      const int64_t n = std::min(kSliver, N - j), width = round_up(n, kLane);
      const int64_t ldb = panel.stride > 0 ? panel.stride : width;
      const float* b = panel.columns_from(j).data + (panel.first + k0) * ldb;
      multiply_sliver(c + j, ldc, block, b, ldb, M, n, kn, k0 > 0 || write == Write::Accumulate);
    }
  }
}

}  // namespace lema::cpu
