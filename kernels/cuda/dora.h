// Element-wise steps of DoRA on the GPU: gains of the outputs applied to rows and columns, and the
// magnitudes' gradient. Used by adapters and linear. g (O) f32 is magnitude / norm; (a g + b) is
// what an element is multiplied by.
#pragma once

#include <cuda_runtime_api.h>

#include "ops.h"

namespace lema::cuda {

struct Gain {
  const float* g = nullptr;
  float a = 1, b = 0;
  Gain from(int64_t column) const { return {g + column, a, b}; }
};

void gains(cudaStream_t stream, float* g, TensorView magnitude, TensorView norm);
// to (O, padded) X = g[o] * from (O, R) f32; columns past R become 0.
void scale_rows(cudaStream_t stream, MatrixView to, MatrixView from, const float* g);
// to (O, R) f32 += g[o] * from (O, R) f32.
void add_scaled_rows(cudaStream_t stream, MatrixView to, MatrixView from, const float* g);
// to (N, n) = (a g + b) o from (N, n), one dtype, X or f32; may alias.
void scale_columns(cudaStream_t stream, MatrixView to, MatrixView from, Gain gain);
// out[o] += sum over rows of dy (N, n) X times z (N, n) f32, over norm[o]; rows in a fixed order.
void add_column_products(cudaStream_t stream, float* out, MatrixView dy, MatrixView z,
                         const float* norm);

}  // namespace lema::cuda
