// GELU (tanh form) on the CPU; contract in Ops::gelu and Ops::gelu_backward. Called by CpuOps,
// shapes checked before.
#pragma once

#include "core/thread_pool.h"
#include "ops.h"

namespace lema::cpu {

// y, x (N, F) X; y may alias x.
void gelu(ThreadPool& pool, MatrixView y, MatrixView x);
// dx, dy, x (N, F) X; dx may alias dy.
void gelu_backward(ThreadPool& pool, MatrixView dx, MatrixView dy, MatrixView x);

}  // namespace lema::cpu
