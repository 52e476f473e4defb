// Lengths of the rows of an adapted weight on the CPU; contract in Ops::lora_norm. Called by
// CpuOps, shapes checked before.
#pragma once

#include "core/thread_pool.h"
#include "cpu/workspace.h"
#include "ops.h"

namespace lema::cpu {

// norm (O) f32; part: a weight (O, I), or (I, O) where transposed, and its adapter.
void lora_norm(ThreadPool& pool, Workspace& workspace, TensorView norm, const LinearPart& part);

}  // namespace lema::cpu
