// Transpositions in registers. Used by the packing of gemm.cpp and gemm_bf16.cpp, by
// matvec_pairs.cpp and by the tiles of attention.
#pragma once

#include <cstdint>
#include <utility>

#include "cpu/simd.h"

namespace lema::cpu {

// v[i] lane j exchanges with v[j] lane i, by exchanging blocks of 1, 2, 4, ... lanes.
template <int S, int W, size_t... L>
[[gnu::always_inline]] inline void exchange(Floats<W>& a, Floats<W>& b, std::index_sequence<L...>) {
  const Floats<W> low = __builtin_shufflevector(a, b, (L & S ? W + L - S : L)...);
  b = __builtin_shufflevector(a, b, (L & S ? W + L : L + S)...);
  a = low;
}

template <int W, int S = 1>
[[gnu::always_inline]] inline void transpose(Floats<W> (&v)[W]) {
  if constexpr (S < W) {
#pragma GCC unroll 16
    for (int i = 0; i < W; ++i)
      if (!(i & S)) exchange<S, W>(v[i], v[i + S], std::make_index_sequence<W>{});
    transpose<W, 2 * S>(v);
  }
}

inline constexpr int64_t kTransposeCols = 64;

// out[k * stride + j] = in[j * in_stride + k] for 16 rows j and columns k < n, which are read up
// to a multiple of 16. f32 numbers, or pairs of bf16: bits are moved as they are.
inline void transpose_lane(float* out, int64_t stride, const float* in, int64_t in_stride,
                           int64_t n) {
  vectorised([&](auto lanes) {
    constexpr int W = lanes.kCount;
    for (int64_t k = 0; k < n; k += W)
      for (int64_t j = 0; j < 16; j += W) {
        Floats<W> v[W];
#pragma GCC unroll 16
        for (int i = 0; i < W; ++i) v[i] = load<W>(in + (j + i) * in_stride + k);
        transpose<W>(v);
#pragma GCC unroll 16
        for (int i = 0; i < W; ++i)
          if (k + i < n) store<W>(out + (k + i) * stride + j, v[i]);
      }
  });
}
inline void transpose_lane(float* out, int64_t stride, const float (&rows)[16][kTransposeCols],
                           int64_t n) {
  transpose_lane(out, stride, rows[0], kTransposeCols, n);
}

}  // namespace lema::cpu
