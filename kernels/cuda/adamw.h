// The optimizer's arithmetic on the GPU; contracts in Ops. Called by CudaOps, shapes checked
// before.
#pragma once

#include <cuda_runtime_api.h>

#include "ops.h"

namespace lema::cuda {

// Doubles of scratch that squared_norm needs.
inline constexpr int64_t kNormParts = 1024;

void adamw(cudaStream_t stream, TensorView param, TensorView grad, TensorView moment1,
           TensorView moment2, TensorView squared_norm, const AdamWStep& step);
void squared_norm(cudaStream_t stream, TensorView out, TensorView x, double* parts);

}  // namespace lema::cuda
