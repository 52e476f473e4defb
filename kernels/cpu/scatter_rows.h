// Rows to named places: key-value cache writes and the gradient of selected rows. Called by CpuOps.
#pragma once

#include "core/thread_pool.h"
#include "ops.h"

namespace lema::cpu {

// Contract: Ops::scatter_rows. Threads: one.
void scatter_rows(ThreadPool& pool, MatrixView y, MatrixView x, TensorView rows);

}  // namespace lema::cpu
