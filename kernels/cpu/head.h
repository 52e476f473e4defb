// Linear cross-entropy over vocabulary chunks on the CPU; contract in Ops::head_begin, head_chunk,
// head_finish and head_weight_backward. Called by CpuOps, shapes checked before.
#pragma once

#include "core/thread_pool.h"
#include "cpu/workspace.h"
#include "ops.h"

namespace lema::cpu {

void head_begin(ThreadPool& pool, const HeadState& state);
// x (N, C) X; weight (rows, C) F32, BF16 or F16; targets (N) I32. Chunks are split further inside,
// so that logits and panels stay in the scratch: how the caller cuts the vocabulary changes last
// bits only.
void head_chunk(ThreadPool& pool, Workspace& workspace, const HeadState& state, MatrixView x,
                TensorView weight, int64_t v_begin, TensorView targets);
// loss (N) f32; dx (N, C) X or null.
void head_finish(ThreadPool& pool, TensorView loss, MatrixView dx, const HeadState& state,
                 float grad_scale);
// d_weight (rows, C) f32; the others as head_chunk had them.
void head_weight_backward(ThreadPool& pool, Workspace& workspace, TensorView d_weight,
                          const HeadState& state, MatrixView x, TensorView weight, int64_t v_begin,
                          TensorView targets, float grad_scale);

}  // namespace lema::cpu
