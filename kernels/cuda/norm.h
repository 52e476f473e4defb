// RMSNorm and LayerNorm on the GPU; contracts in Ops. Called by CudaOps, shapes checked before.
#pragma once

#include <cuda_runtime_api.h>

#include "ops.h"

namespace lema::cuda {

void rmsnorm(cudaStream_t stream, MatrixView y, MatrixView x, TensorView weight, float eps);
void rmsnorm_backward(cudaStream_t stream, MatrixView dx, MatrixView dy, MatrixView x,
                      TensorView weight, float eps, Write write);
void layernorm(cudaStream_t stream, MatrixView y, MatrixView x, TensorView weight, TensorView bias,
               float eps);
void layernorm_backward(cudaStream_t stream, MatrixView dx, MatrixView dy, MatrixView x,
                        TensorView weight, float eps, Write write);

}  // namespace lema::cuda
