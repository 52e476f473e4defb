// The dropout mask of an adapter, from the counters that LoraView names: the same bits as the
// CPU's. Used by adapters and linear.
#pragma once

#include <cuda_runtime_api.h>

#include "ops.h"

namespace lema::cuda {

// Where a block of columns lies in x: columns [begin, begin + cols) of `width`.
struct MaskedColumns {
  int64_t begin, width;
};

// to (N, n) X = the kept elements of from (N, n) X, 0 elsewhere; not divided by 1 - dropout.
void drop(cudaStream_t stream, MatrixView to, MatrixView from, const LoraView& lora,
          MaskedColumns columns);
// sum (N, n) f32 (=|+=) the kept elements of from (N, n) f32.
void add_kept(cudaStream_t stream, MatrixView sum, MatrixView from, const LoraView& lora,
              MaskedColumns columns, Write write);

}  // namespace lema::cuda
