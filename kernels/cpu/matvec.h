// Products of a few rows with a weight: decoding. The weight is read once, where it lies, so memory
// sets the speed. Called by linear.
#pragma once

#include "core/thread_pool.h"
#include "cpu/gemm.h"

namespace lema::cpu {

// Calls of at most this many rows go this way; more rows pay for packing.
inline constexpr int64_t kFewRows = 16;

// y (N, O) f32 (=|+=) x (N, I) w (I, O), N <= kFewRows. x f32, already rounded to X; w rounded to X
// where it is of another type. Output columns are split in fixed chunks; sums are over I in a fixed
// order.
void multiply_few(ThreadPool& pool, float* y, int64_t ldy, const float* x, int64_t ldx,
                  const Operand& w, int64_t N, int64_t O, int64_t I, Write write, DType X);

}  // namespace lema::cpu
