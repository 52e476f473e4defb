// The 32-bit transposition behind packing: f32 numbers, or pairs of bf16. Used by gemm.cpp and
// gemm_bf16.cpp.
#pragma once

#include <emmintrin.h>
#include <xmmintrin.h>

#include <cstdint>

namespace lema::cpu {

inline constexpr int64_t kTransposeCols = 64;

// out[k * stride + j] = rows[j][k] for 16 rows and n <= 64 columns, by 4 x 4 blocks. Bits are moved
// as they are.
inline void transpose_lane(float* out, int64_t stride, const float (&rows)[16][kTransposeCols],
                           int64_t n) {
  for (int64_t k = 0; k < n; k += 4)
    for (int64_t j = 0; j < 16; j += 4) {
      __m128 r0 = _mm_loadu_ps(&rows[j][k]), r1 = _mm_loadu_ps(&rows[j + 1][k]);
      __m128 r2 = _mm_loadu_ps(&rows[j + 2][k]), r3 = _mm_loadu_ps(&rows[j + 3][k]);
      _MM_TRANSPOSE4_PS(r0, r1, r2, r3);
      float* o = out + k * stride + j;
      _mm_storeu_ps(o, r0);
      if (k + 1 < n) _mm_storeu_ps(o + stride, r1);
      if (k + 2 < n) _mm_storeu_ps(o + 2 * stride, r2);
      if (k + 3 < n) _mm_storeu_ps(o + 3 * stride, r3);
    }
}

}  // namespace lema::cpu
