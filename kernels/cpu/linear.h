// Linear with low-rank adapters on the CPU; contract in Ops::linear and Ops::linear_backward.
// Called by CpuOps, shapes checked before.
#pragma once

#include <span>

#include "core/thread_pool.h"
#include "cpu/workspace.h"
#include "ops.h"

namespace lema::cpu {

// y (N, sum of O) X or F32; x (N, I) X.
void linear(ThreadPool& pool, Workspace& workspace, MatrixView y, MatrixView x,
            std::span<const LinearPart> parts, Write write);
// dx (N, I) X or null; dy (N, sum of O) X; x (N, I) X.
void linear_backward(ThreadPool& pool, Workspace& workspace, MatrixView dx, MatrixView dy,
                     MatrixView x, std::span<const LinearPart> parts, Write write);

}  // namespace lema::cpu
