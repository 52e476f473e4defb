// Start-up on a GPU: drivers load a kernel at its first use, which takes memory and waits for all
// queues. Called before a run allocates.
#pragma once

#include <span>

#include "model/backend.h"
#include "train/kernel_call.h"

namespace lema {

// Runs each call once; a product with as many rows as `limits`, those of the run's kernels, have,
// and with fewer, down through every row_class (ops.h). Operands, those of one call at a time, and
// scratch are freed before it returns.
void warm_up(const Backend& backend, int threads, const OpsLimits& limits,
             std::span<const KernelCall> calls);

}  // namespace lema
