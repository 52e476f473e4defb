// The optimizer's arithmetic on the CPU; contract in Ops::adamw, Ops::squared_norm and Ops::fill.
// Called by CpuOps, shapes checked before.
#pragma once

#include "core/thread_pool.h"
#include "ops.h"

namespace lema::cpu {

void adamw(ThreadPool& pool, TensorView param, TensorView grad, TensorView moment1,
           TensorView moment2, TensorView squared_norm, const AdamWStep& step);
// out (1) f32; x f32.
void squared_norm(ThreadPool& pool, TensorView out, TensorView x);
void fill(ThreadPool& pool, TensorView x, float value);

}  // namespace lema::cpu
