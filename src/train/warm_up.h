// Start-up on a GPU: drivers load a kernel at its first use, which takes memory and waits for all
// queues. Called before a run allocates.
#pragma once

#include <span>

#include "model/backend.h"
#include "train/kernel_call.h"

namespace lema {

// Runs each call once, and products also with fewer rows, for which the library has other kernels.
// Operands and scratch are freed before it returns; they are part of what a run that makes these
// calls holds. `limits`: of the run's kernels.
void warm_up(const Backend& backend, int threads, const OpsLimits& limits,
             std::span<const KernelCall> calls);

}  // namespace lema
