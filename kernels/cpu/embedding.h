// Row lookup on the CPU and its gradient; contracts in Ops::embedding and embedding_backward.
// Called by CpuOps, shapes checked before.
#pragma once

#include "core/thread_pool.h"
#include "ops.h"

namespace lema::cpu {

// y (N, C) X; ids (N) I32, each in [0, V); table (V, C) F32, BF16 or F16.
void embedding(ThreadPool& pool, MatrixView y, TensorView ids, TensorView table, Write write);
// d_table (V, C) f32; ids (N) I32, each in [0, V); dy (N, C) X.
void embedding_backward(ThreadPool& pool, TensorView d_table, TensorView ids, MatrixView dy);

}  // namespace lema::cpu
