// Linear forward and backward on the GPU; contract in Ops. Called by CudaOps, shapes checked
// before.
//
// A 16-bit dx that is overwritten, with adapters but neither dropout nor magnitudes, is rounded on
// its way: the low-rank part, then the base weight's product, then their sum, where the CPU rounds
// once. y, and a dx that is added to, are summed in f32 and rounded once.
#pragma once

#include <span>

#include "cuda/adapters.h"

namespace lema::cuda {

void linear(const Engine& engine, MatrixView y, MatrixView x, std::span<const LinearPart> parts,
            Write write);
void linear_backward(const Engine& engine, MatrixView dx, MatrixView dy, MatrixView x,
                     std::span<const LinearPart> parts, Write write);

}  // namespace lema::cuda
