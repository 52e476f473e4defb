// Rotary position embedding on the CPU; contract in Ops::rope. Called by CpuOps, shapes checked
// before.
#pragma once

#include "core/thread_pool.h"
#include "ops.h"

namespace lema::cpu {

// x (N, heads * head_size) X, in place; positions (N) I32; table (positions, P) f32, P <= head_size
// and even.
void rope(ThreadPool& pool, MatrixView x, TensorView positions, TensorView table, int64_t head_size,
          bool inverse);

}  // namespace lema::cpu
