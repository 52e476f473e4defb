// Element-wise addition on the CPU, for residuals; contract in Ops::add. Called by CpuOps, shapes
// checked before.
#pragma once

#include "core/thread_pool.h"
#include "ops.h"

namespace lema::cpu {

// y, a, b (N, C) X; y may alias either.
void add(ThreadPool& pool, MatrixView y, MatrixView a, MatrixView b);

}  // namespace lema::cpu
