// LayerNorm on the CPU; contract in Ops::layernorm and Ops::layernorm_backward. CpuOps calls it,
// shapes checked.
#pragma once

#include "core/thread_pool.h"
#include "ops.h"

namespace lema::cpu {

// y, x (N, C) X; weight, bias (C) F32, BF16 or F16, each of its own dtype. y may alias x.
void layernorm(ThreadPool& pool, MatrixView y, MatrixView x, TensorView weight, TensorView bias,
               float eps);
// dx, dy, x (N, C) X. dx may alias dy or x.
void layernorm_backward(ThreadPool& pool, MatrixView dx, MatrixView dy, MatrixView x,
                        TensorView weight, float eps, Write write);

}  // namespace lema::cpu
