// The forward pass of a linear for few rows, as when tokens are decoded. Called by linear.
#pragma once

#include <span>

#include "core/thread_pool.h"
#include "cpu/workspace.h"
#include "ops.h"

namespace lema::cpu {

// As Ops::linear for x of at most kFewRows rows, without dropout: every weight, the adapters'
// included, is read once and multiplied where it lies.
void linear_few(ThreadPool& pool, Workspace& workspace, const MatrixView& y, const MatrixView& x,
                std::span<const LinearPart> parts, Write write);

}  // namespace lema::cpu
