// Row lookup on the CPU; contract in Ops::embedding. Called by CpuOps, shapes checked before.
#pragma once

#include "core/thread_pool.h"
#include "ops.h"

namespace lema::cpu {

// y (N, C) X; ids (N) I32, each in [0, V); table (V, C) F32, BF16 or F16.
void embedding(ThreadPool& pool, MatrixView y, TensorView ids, TensorView table, Write write);

}  // namespace lema::cpu
