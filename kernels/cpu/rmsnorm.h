// RMSNorm on the CPU; contract in Ops::rmsnorm and Ops::rmsnorm_backward. Called by CpuOps, shapes
// checked before.
#pragma once

#include "core/thread_pool.h"
#include "ops.h"

namespace lema::cpu {

// y, x (N, C) X; weight (C) F32, BF16 or F16. y may alias x.
void rmsnorm(ThreadPool& pool, MatrixView y, MatrixView x, TensorView weight, float eps);
// dx, dy, x (N, C) X. dx may alias dy or x.
void rmsnorm_backward(ThreadPool& pool, MatrixView dx, MatrixView dy, MatrixView x,
                      TensorView weight, float eps, Write write);

}  // namespace lema::cpu
