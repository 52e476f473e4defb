// Rows of numbers between storage types and f32, vectorised. Used by the matrix products and
// everything around them.
#pragma once

#include <cstdint>

#include "core/dtype.h"

namespace lema::cpu {

// out[i] = in[i] as f32, exactly. in: n numbers of F32, BF16 or F16.
void widen(float* out, const void* in, DType dtype, int64_t n);
// out[i] = in[i] rounded to nearest even. out: n numbers of F32, BF16 or F16.
void narrow(void* out, DType dtype, const float* in, int64_t n);
// The same past the caches, which keep what the thread still works with: where the CPU can, `out`
// is aligned to 64 bytes and the numbers fill such lines; else narrow. For a large result, of which
// little would stay in a cache until it is read. After the last call publish_past_caches(), before
// what tells other threads.
void narrow_past_caches(void* out, DType dtype, const float* in, int64_t n);
void publish_past_caches();
// x[i] rounded to `dtype` and back: nothing for F32.
void round_in_place(float* x, DType dtype, int64_t n);
// widen, then round to the compute type X (F32 or BF16) where `dtype` is not X: how operands enter
// a product.
void widen_operand(float* out, const void* in, DType dtype, DType X, int64_t n);

}  // namespace lema::cpu
