// The dropout mask of an adapter, drawn again wherever it is needed; rule in LoraView. Used by
// linear.
#pragma once

#include "ops.h"

namespace lema::cpu {

// Zeroes the dropped elements of a tile: x[i * stride + j] is element (row + i, col + j) of a call
// of width `width`. The factor 1 / (1 - dropout) is the caller's.
void drop(float* x, int64_t stride, int64_t rows, int64_t cols, const LoraView& lora, int64_t row,
          int64_t col, int64_t width);

}  // namespace lema::cpu
