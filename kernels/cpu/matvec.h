// Products of a few rows with a weight: decoding. The weight is read once, where it lies, so memory
// sets the speed. Called by linear_few.
#pragma once

#include "cpu/gemm.h"

namespace lema::cpu {

// Rows of x of a product, and columns of y, at most.
inline constexpr int64_t kFewRows = 16, kFewCols = 64;

// The left operand (N, I).
struct FewRows {
  int64_t N = 0, I = 0;
  const float* rows = nullptr;   // f32, rounded to X
  const float* pairs = nullptr;  // as pack_few_pairs gives them; null: without
};

// tile (N, n) f32, rows kFewCols apart, (=|+=) x w, w (I, n) in either order. w is rounded to X
// where it is of another type. Sums are over I in a fixed order. `goes_on`: the columns after these
// come next, and are asked for. One thread.
void multiply_few(float* tile, const FewRows& x, const Operand& w, int64_t n, Write write, DType X,
                  bool goes_on = false);

}  // namespace lema::cpu
