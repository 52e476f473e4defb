// Kernels without arithmetic, for memory that nobody reads: what they are called with is noted by
// its shapes. Of the step's trace, and of the test that a set-up makes the call it was given.
#pragma once

#include <functional>
#include <memory>

#include "ops.h"
#include "train/kernel_call.h"

namespace lema {

std::unique_ptr<Ops> make_recording_ops(std::function<void(KernelCall)> note);

}  // namespace lema
