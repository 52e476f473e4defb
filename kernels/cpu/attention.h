// Causal attention of packed sequences on the CPU, memory O(N); contract in Ops::attention and
// Ops::attention_backward. Called by CpuOps, shapes checked before. Ref: arXiv:2307.08691 (tiles,
// online softmax, recomputed scores).
#pragma once

#include <span>

#include "core/thread_pool.h"
#include "ops.h"

namespace lema::cpu {

// Floats of scratch for any attention call within `limits`: the tiles of each thread, and a number
// per row and head.
int64_t attention_scratch_floats(const OpsLimits& limits, int threads);

// o, q (Nq, H*D) X; k, v (Nkv, Hkv*D) X; lse (Nq, H) f32 or null; sequences (S, 4) I32.
// Rows of no sequence stay as they are.
void attention(ThreadPool& pool, MatrixView o, TensorView lse, MatrixView q, MatrixView k,
               MatrixView v, TensorView sequences, const AttentionShape& shape,
               std::span<float> scratch);

// dq, d_o, o, q (Nq, H*D) X; dk, dv, k, v (Nkv, Hkv*D) X; lse (Nq, H) f32. Outputs alias no input.
// Two passes, over query tiles for dq and over key tiles for dk and dv, so that each element has
// one writer.
void attention_backward(ThreadPool& pool, MatrixView dq, MatrixView dk, MatrixView dv,
                        MatrixView d_o, MatrixView o, TensorView lse, MatrixView q, MatrixView k,
                        MatrixView v, TensorView sequences, const AttentionShape& shape,
                        std::span<float> scratch);

}  // namespace lema::cpu
