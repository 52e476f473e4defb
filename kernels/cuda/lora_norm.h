// The lengths of an adapted weight's rows on the GPU; contract in Ops::lora_norm. Called by
// CudaOps, shapes checked before.
#pragma once

#include "cuda/adapters.h"

namespace lema::cuda {

void lora_norm(const Engine& engine, TensorView norm, const LinearPart& part);

// norm[i] = length of row i of x (n, cols) f32, or of column i where `columns`.
void lengths(cudaStream_t stream, float* norm, MatrixView x, bool columns);

}  // namespace lema::cuda
