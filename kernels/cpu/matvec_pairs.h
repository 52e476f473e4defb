// Few rows times a bf16 weight by units that multiply pairs. On AMX rows of the weight are tiles as
// they lie in memory, the rows of x the columns of one more, and an x of f32 is the exact sum of
// three bf16 parts, so that f32 arithmetic runs there too. Called by matvec.cpp.
#pragma once

#include "cpu/gemm.h"

namespace lema::cpu {

// Columns of y that one call makes.
inline constexpr int64_t kPairCols = 32;

// Whether such a unit is in use for N rows and weights of this dtype with I columns.
bool few_run_in_pairs(DType weight, int64_t N, int64_t I, DType X);

// The form of x that the products read: bf16 [I / 32][parts][16][16 rows][2], zero past row N.
inline int64_t few_parts(DType X) { return X == DType::F32 ? 3 : 1; }
inline int64_t few_pairs_floats(int64_t I, DType X) { return few_parts(X) * I / 2 * 16; }
// From x (N, I) f32 already rounded to X, N <= 16.
void pack_few_pairs(float* pairs, const float* x, int64_t N, int64_t I, DType X);

// tile (N, kPairCols) f32, rows ldt apart, = x W^T for kPairCols rows of W (O, I) bf16 that lie
// `stride` elements apart; the rows after these are asked for when it goes on with them.
void multiply_few_pairs(float* tile, int64_t ldt, const float* pairs, const bf16* w,
                        int64_t stride, int64_t N, int64_t I, DType X, bool goes_on);

}  // namespace lema::cpu
