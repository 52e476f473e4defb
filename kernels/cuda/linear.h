// Linear forward and backward on the GPU; contract in Ops. Called by CudaOps, shapes checked
// before.
//
// With an adapter a BF16 output is rounded twice: the low-rank part, then its sum with the base
// weight's product; so the error is one rounding of the low-rank part more than the CPU's.
#pragma once

#include <span>

#include "cuda/adapters.h"

namespace lema::cuda {

void linear(const Engine& engine, MatrixView y, MatrixView x, std::span<const LinearPart> parts,
            Write write);
void linear_backward(const Engine& engine, MatrixView dx, MatrixView dy, MatrixView x,
                     std::span<const LinearPart> parts, Write write);

}  // namespace lema::cuda
