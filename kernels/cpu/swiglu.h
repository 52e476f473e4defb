// SwiGLU on the CPU; contract in Ops::swiglu and Ops::swiglu_backward. Called by CpuOps, shapes
// checked before.
#pragma once

#include "core/thread_pool.h"
#include "ops.h"

namespace lema::cpu {

// y (N, F) X; gate_up (N, 2F) X: gate, then up.
void swiglu(ThreadPool& pool, MatrixView y, MatrixView gate_up);
// d_gate_up, gate_up (N, 2F) X; dy (N, F) X. d_gate_up may alias gate_up.
void swiglu_backward(ThreadPool& pool, MatrixView d_gate_up, MatrixView dy, MatrixView gate_up);

}  // namespace lema::cpu
